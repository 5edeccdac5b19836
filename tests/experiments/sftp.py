"""A server of SFTP at 127.0.0.1, for tests: one folder of this machine, one user, as strict as paramiko makes it."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

USER, PASSWORD = "me", "sesame"


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve a folder inside the block; gives its address, with user and password."""
    key = paramiko.ECDSAKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transports: list[paramiko.Transport] = []

        def listen() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed below
                    return
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files, root)
                transport.start_server(server=Door())
                transports.append(transport)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield f"sftp://{USER}:{PASSWORD}@127.0.0.1:{listening.getsockname()[1]}"
        finally:
            for transport in transports:
                transport.close()
            listening.shutdown(socket.SHUT_RDWR)
            listener.join()


class Door(paramiko.ServerInterface):
    """Lets one user in, by password."""

    def check_auth_password(self, username: str, password: str) -> int:
        """Return whether both are right."""
        right = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Return that any session may be opened."""
        return paramiko.OPEN_SUCCEEDED


def _told(method):
    """Return the method, with errors of the system as codes of SFTP."""

    def asked(self, *args):
        try:
            return method(self, *args)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    return asked


class Files(paramiko.SFTPServerInterface):
    """The folder's files, by the calls that SFTP makes of the system."""

    def __init__(self, server, root: Path) -> None:
        super().__init__(server)
        self.root = root

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @_told
    def list_folder(self, path):
        """Return the entries of a folder."""
        return [paramiko.SFTPAttributes.from_stat(one.stat(), one.name) for one in self._at(path).iterdir()]

    @_told
    def stat(self, path):
        """Return what is there."""
        return paramiko.SFTPAttributes.from_stat(self._at(path).stat())

    @_told
    def lstat(self, path):
        """Return what is there; a link as such."""
        return paramiko.SFTPAttributes.from_stat(self._at(path).lstat())

    @_told
    def open(self, path, flags, attributes):
        """Return an open file."""
        file = os.fdopen(os.open(self._at(path), flags, 0o666), "rb" if not flags & (os.O_WRONLY | os.O_RDWR) else "wb")
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = file
        return handle

    @_told
    def remove(self, path):
        """Remove a file."""
        self._at(path).unlink()
        return paramiko.SFTP_OK

    @_told
    def rename(self, old, new):
        """Rename, but replace nothing, as SFTP's own rename does."""
        if self._at(new).exists():
            return paramiko.SFTP_FAILURE
        return self.posix_rename(old, new)

    @_told
    def posix_rename(self, old, new):
        """Rename, and replace what is there."""
        self._at(old).replace(self._at(new))
        return paramiko.SFTP_OK

    @_told
    def mkdir(self, path, attributes):
        """Make a folder."""
        self._at(path).mkdir()
        return paramiko.SFTP_OK

    @_told
    def rmdir(self, path):
        """Remove an empty folder."""
        self._at(path).rmdir()
        return paramiko.SFTP_OK
