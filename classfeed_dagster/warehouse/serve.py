"""The local warehouse's process: ``python -m classfeed_dagster.warehouse.serve PORT FOLDER``. See ``server.py``."""

from __future__ import annotations

import sys
from pathlib import Path


def main(port: int, folder: Path) -> None:
    """Serve until told to stop. Databases are files of ``folder``."""
    import fakesnow.server
    import uvicorn
    from fakesnow.instance import FakeSnow

    # fakesnow's command line ignores the folder in server mode, so its shared instance is made here.
    fakesnow.server.shared_fs = FakeSnow(db_path=folder)
    uvicorn.run(fakesnow.server.app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
