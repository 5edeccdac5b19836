"""Every kind of image file becomes the RGB levels known by hand, or a refusal that names it."""

import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillscape._errors import InputError
from stillscape.data import BrokenImage, NeedsWindow, parse_window, read_image, to_rgb
from stillscape.data.images import decode_bytes

QUAD = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)


def levels(image: Image.Image) -> list:
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tif", "TIFF", "webp", "ppm", "gif"])
def test_lossless_formats_keep_their_pixels(tmp_path, suffix):
    path = tmp_path / f"quad.{suffix}"
    Image.fromarray(QUAD).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert levels(read_image(path)) == QUAD.tolist()


def test_the_content_tells_the_format_not_the_suffix(tmp_path):
    path = tmp_path / "really_png.JPG"
    Image.fromarray(QUAD).save(path, format="PNG")
    assert levels(read_image(path)) == QUAD.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "turned"), [(3, QUAD[::-1, ::-1]), (6, np.rot90(QUAD, -1)), (2, QUAD[:, ::-1])]
)
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(QUAD).save(tmp_path / f"a.{suffix}", exif=exif)
    assert levels(read_image(tmp_path / f"a.{suffix}")) == turned.tolist()


def test_damaged_exif_does_not_lose_the_picture(tmp_path):
    Image.fromarray(QUAD).save(tmp_path / "a.jpg", exif=b"Exif\0\0 this is no TIFF header", quality=100, subsampling=0)
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg"), int) - QUAD).max() < 10


def test_color_modes_by_hand():
    assert levels(to_rgb(Image.new("L", (1, 1), 77))) == [[[77, 77, 77]]]
    assert levels(to_rgb(Image.new("1", (1, 1), 1))) == [[[255, 255, 255]]]
    assert levels(to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))) == [[[255, 0, 0]]]
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert levels(to_rgb(palette)) == [[[10, 20, 30]]]


def test_transparent_pixels_lie_over_black(tmp_path):
    assert levels(to_rgb(Image.new("RGBA", (1, 1), (200, 100, 50, 0)))) == [[[0, 0, 0]]]
    assert levels(to_rgb(Image.new("RGBA", (1, 1), (200, 100, 50, 255)))) == [[[200, 100, 50]]]
    assert levels(to_rgb(Image.new("LA", (1, 1), (200, 51)))) == [[[40, 40, 40]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=b"\0\xff")
    assert levels(read_image(tmp_path / "p.png")) == [[[0, 0, 0], [10, 20, 30]]]


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (np.array([[0, 1000, 2000, 60000]], np.uint16), "png"),
        (np.array([[0, 1000, 2000, 60000]], np.uint16), "tif"),
        (np.array([[-70000, 1000, 2000, 60000]], np.int32), "tif"),
        (np.array([[-0.5, 1000.0, 2000.0, 6e9]], np.float32), "tif"),
    ],
)
def test_deep_grey_needs_a_window_and_saturates_outside_of_it(tmp_path, values, suffix):
    path = tmp_path / f"scan7.{suffix}"
    Image.fromarray(values).save(path)
    with pytest.raises(NeedsWindow, match=r"scan7.*--window LOW:HIGH") as refusal:
        read_image(path)
    assert (refusal.value.low, refusal.value.high) == (values.min(), values.max())
    assert np.asarray(read_image(path, window=(0, 2000)))[0, :, 1].tolist() == [0, 128, 255, 255]


def test_a_window_leaves_8_bit_images_alone():
    assert levels(to_rgb(Image.fromarray(QUAD), window=(0, 4095))) == QUAD.tolist()


def test_sixteen_bit_color_is_not_cut_down_in_silence():
    # A PNG written by hand: Pillow reads 16-bit color, dropping the lower 8 bits, but does not write it.
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = b"\0" + np.array([0x1234, 0x8000, 0xFFFF], ">u2").tobytes()
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    with pytest.raises(NeedsWindow, match="deep color has 16 bits per color channel"):
        decode_bytes(data, window=None, name="deep color")
    with pytest.raises(InputError, match="0:65535 only, not with 0:4095"):
        decode_bytes(data, window=(0, 4095), name="deep color")
    assert levels(decode_bytes(data, window=(0, 65535), name="deep color")) == [[[0x12, 0x80, 0xFF]]]


def test_pixels_that_are_no_number_are_refused():
    with pytest.raises(InputError, match="1 pixels that are no number"):
        to_rgb(Image.fromarray(np.array([[np.nan, 1]], np.float32)), window=(0, 1))


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_several_frames_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(QUAD), Image.fromarray(255 - QUAD)]
    frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"film.* holds 2 frames"):
        read_image(tmp_path / f"film.{suffix}")


def test_of_the_photographs_of_phones_the_first_frame_counts(tmp_path):
    first, preview = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[preview])
    red, _, blue = np.asarray(read_image(tmp_path / "phone.jpg"))[8, 8]
    assert red > 190
    assert blue < 10


def test_damaged_files_are_broken_images_that_name_the_file(tmp_path):
    sound = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(sound, "JPEG")
    planted = {
        "cut.jpg": (sound.getvalue()[:1500], "damaged"),
        "empty.jpg": (b"", "empty file"),
        "notes.jpg": (b"these are notes", "no image"),
        "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        "phone.HEIC": (b"\0\0\0\x18ftypheic", "export it as JPEG"),
    }
    for name, (content, reason) in planted.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImage, match=rf"{name}.*{reason}"):
            read_image(tmp_path / name)
    with pytest.raises(BrokenImage, match=r"gone\.png can't be opened: No such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("every", [7, 31])
def test_a_png_cut_anywhere_is_broken_or_refused_never_a_crash(tmp_path, every):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(whole, "PNG")
    data = whole.getvalue()
    for length in range(0, len(data) - 16, every):
        with pytest.raises(BrokenImage, match="cut"):
            decode_bytes(data[:length], window=None, name="cut")


def test_dicom_is_refused_by_suffix_and_by_content(tmp_path):
    (tmp_path / "a.DCM").write_bytes(b"anything")
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    for name in ("a.DCM", "IM0001"):
        with pytest.raises(InputError, match=rf"{name} is a DICOM file.*Convert it") as refusal:
            read_image(tmp_path / name)
        assert not isinstance(refusal.value, BrokenImage)


def test_decompression_bombs_are_broken_images(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "bomb.png")
    for limit in (9_000, 4_000):  # Pillow warns above the limit, and refuses above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BrokenImage, match=rf"bomb.*more than {limit} pixels"):
            read_image(tmp_path / "bomb.png")


def test_reading_does_not_touch_the_warning_filters(tmp_path):
    Image.fromarray(QUAD).save(tmp_path / "a.png")
    before = list(warnings.filters)
    read_image(tmp_path / "a.png")
    assert warnings.filters == before


@pytest.mark.parametrize("window", [(5, 5), (6, 5), (0, float("inf")), (1, 2, 3)])
def test_windows_that_are_none(window):
    with pytest.raises(InputError, match="LOW < HIGH"):
        to_rgb(Image.fromarray(QUAD), window=window)


@pytest.mark.parametrize("text", ["5", "a:b", "5:", ":", "9:3", "nan:3"])
def test_windows_that_can_not_be_parsed(text):
    with pytest.raises(InputError, match=r"window is .*LOW"):
        parse_window(text)


def test_the_needed_window_survives_a_process_boundary():
    copy = pickle.loads(pickle.dumps(NeedsWindow("message", 1.0, 2.0)))
    assert (str(copy), copy.low, copy.high) == ("message", 1.0, 2.0)


def test_the_result_does_not_depend_on_the_file(tmp_path: Path):
    Image.fromarray(QUAD).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert levels(image) == QUAD.tolist()
