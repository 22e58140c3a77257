"""Stages run by a person without rights: as a script with an empty folder, prints what they were told as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from hemalens.core.errors import UserError
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.split import split
from tests.data.hostile import cell, encode
from tests.data.kills import sources

_NOBODY = 65534


def main(home: Path) -> dict[str, Any]:
    sources(home)
    audit(home / "cells", home / "audited", workers=0)  # imports and warms up what nobody may read later
    audit(home / "cells.npz", home / "audited.npz", workers=0)
    clean(home / "cells", home / "cleaned", audit=home / "audited")
    split(home / "cells", home / "warm.csv")
    locked = home / "others" / "ig" / "locked.png"
    (home / "others" / "ig" / "closed").mkdir(parents=True)
    locked.write_bytes(encode(cell()))
    (home / "others" / "ig" / "open.png").write_bytes(encode(cell(8, 1)))
    (home / "others" / "ig" / "closed" / "inside.png").write_bytes(encode(cell(8, 2)))
    (home / "locked.zip").write_bytes(b"PK")
    (home / "locked").mkdir()
    (home / "closed").mkdir()
    (home / "open").mkdir(mode=0o777)
    for path, mode in ((home, 0o755), (home / "open", 0o777)):
        path.chmod(mode)
    for path in (locked, locked.with_name("closed"), home / "locked.zip", home / "locked"):
        path.chmod(0)
    (home / "closed").chmod(0o555)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    summary = audit(home / "others", home / "open" / "audit", workers=0)
    issues = (home / "open" / "audit" / "issues.csv").read_text()
    assert issues.count("unreadable") == 1
    row = next(line for line in issues.splitlines() if "unreadable" in line)
    reasons = {row.split(",")[0]: row.split(",")[-1]}
    reasons |= {entry.name: entry.reason for entry in summary.ignored}
    out = home / "closed"
    attempts = {
        "audit": lambda: audit(home / "cells", out / "audit", workers=0),
        "clean": lambda: clean(home / "cells", out / "clean", audit=home / "audited"),
        "clean.npz": lambda: clean(home / "cells.npz", out / "clean.npz", audit=home / "audited.npz"),
        "split": lambda: split(home / "cells", out / "splits.csv"),
        "locked source": lambda: audit(home / "locked", home / "open" / "other", workers=0),
        "locked archive": lambda: audit(home / "locked.zip", home / "open" / "other", workers=0),
    }
    errors = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            errors[name] = str(error)
    left = [str(path) for path in out.iterdir()] + [str(path) for path in (home / "open").glob("other*")]
    return {"reasons": reasons, "errors": errors, "left": left}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
