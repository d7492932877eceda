"""Process of the local warehouse: ``python -m classfeed_dagster.local.snowflake_process PORT FOLDER``."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

_LOOK_SECONDS = 10.0  # interval of the lease check, which stops a server whose users were killed


def main(port: int, folder: Path) -> None:
    """Serve until stopped, or until no living process holds a lease. Databases are files of ``folder``."""
    import importlib

    import uvicorn
    from fakesnow.instance import FakeSnow

    from classfeed_dagster.file_access import keep_private

    keep_private()
    # fakesnow's command line ignores the folder in server mode, so its shared instance is created here.
    server = importlib.import_module("fakesnow.server")  # the package has a function of the same name
    server.shared_fs = FakeSnow(db_path=folder)  # type: ignore[attr-defined, unused-ignore]
    threading.Thread(target=_watch, args=(port, folder), daemon=True).start()
    uvicorn.run(server.app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


def _watch(port: int, folder: Path) -> None:
    from classfeed_dagster.local.snowflake_server import stop_if_unused

    while True:
        time.sleep(_LOOK_SECONDS)
        stop_if_unused(folder, port)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
