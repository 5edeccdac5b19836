"""Commands of the door that stand in files of their own; `stillscape.cli` puts them on the command line."""
