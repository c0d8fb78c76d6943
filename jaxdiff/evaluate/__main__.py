r"""Measure pictures: `python -m jaxdiff.evaluate --help`; docs/evaluation.md explains the numbers.

python -m jaxdiff.evaluate compare emoji/permissive@heldout out --extractor clip:FOLDER
python -m jaxdiff.evaluate audit out --training emoji/permissive@train \
    --held-out emoji/permissive@heldout --page pairs.html
"""

import sys

from jaxdiff import platform
from jaxdiff.cli import or_exit

or_exit(platform.configure)

from jaxdiff.evaluate.commands import main  # noqa: E402

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # file names that are no UTF-8
    sys.exit(main(sys.argv[1:]))
