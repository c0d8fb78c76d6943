"""Draw pictures: `python sample.py "a red heart, noto style"`; `--help` explains every flag."""

import sys

from jaxdiff import platform
from jaxdiff.cli import or_exit

or_exit(platform.configure)

from jaxdiff.pipelines.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
