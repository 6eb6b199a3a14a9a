"""`python -m edgert`."""

from edgert.cli import main

main()
