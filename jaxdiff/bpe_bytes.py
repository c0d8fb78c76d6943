"""How byte-level BPE writes bytes as characters (Radford et al. 2019), in CLIP's order.

A byte whose Latin-1 character is printable stands for itself; the others take the characters from
number 256 on.
"""

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))


def byte_symbols() -> list[str]:
    """The character that stands for each byte, in CLIP's order of numbers: printable ones first."""
    return [chr(byte) for byte in _PRINTABLE] + [
        chr(256 + index) for index in range(256 - len(_PRINTABLE))
    ]
