"""`python -m edgert`."""

import sys

import edgert

if edgert.__file__ is None:  # beside a folder of that name, which Python takes for the package
    sys.exit(
        f"edgert: Python takes the folder {next(iter(edgert.__path__))} for the package: start it in another "
        "folder, or as: edgert"
    )

from edgert.cli import main

main()
