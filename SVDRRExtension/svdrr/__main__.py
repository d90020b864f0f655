"""``python -m svdrr``: the command, where the interpreter is known and the search path is not."""

from svdrr.cli import main

main()
