"""The C library below Pillow's TIFF decoder, kept from writing on stderr: what it says is in our DecodeError too.

Standard library only; does nothing where the library cannot be found (it is looked for on Linux alone).
"""

import ctypes
import re
from functools import cache
from pathlib import Path

__all__ = ["silence_libtiff"]

_MAPPED = re.compile(r"(/\S*libtiff[^/\s]*\.so\S*)$", re.MULTILINE)


@cache
def silence_libtiff(maps: Path = Path("/proc/self/maps")) -> int:
    """Take the handlers for errors and warnings off every libtiff in this process; return how many there are.

    Args:
        maps: the list of what is mapped into the process.
    """
    try:
        mapped = sorted(set(_MAPPED.findall(maps.read_text(encoding="utf-8", errors="replace"))))
    except OSError:  # not Linux
        return 0
    silenced = 0
    for path in mapped:
        try:
            library = ctypes.CDLL(path)  # loaded already: this is the same one
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
        except (OSError, AttributeError):  # removed from the disk meanwhile, or built without them
            continue
        silenced += 1
    return silenced
