"""Process of the local warehouse: ``python -m classfeed_dagster.local.snowflake_process PORT FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path


def main(port: int, folder: Path) -> None:
    """Serve until told to stop. Databases are files of ``folder``."""
    import importlib

    import uvicorn
    from fakesnow.instance import FakeSnow

    # fakesnow's command line ignores the folder in server mode, so its shared instance is made here.
    server = importlib.import_module("fakesnow.server")  # the package has a function of the same name
    server.shared_fs = FakeSnow(db_path=folder)  # type: ignore[attr-defined, unused-ignore]
    uvicorn.run(server.app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
