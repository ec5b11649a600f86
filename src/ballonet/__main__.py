"""``python -m ballonet``: the program, also where it is not on the path."""

from ballonet.cli.main import main

main()
