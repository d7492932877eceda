"""Process of the rehearsal's Snowflake: ``python -m ….snowflake FOLDER ADDRESS PORT ROLE [CHAIN KEY]``.

It ends TLS itself: the URLs that it gives to a client for uploads then begin with https, as Snowflake's do.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from classfeed_dagster_tests.fixtures import snowflake_grants


def main(folder: Path, address: str, port: int, role: str, chain: str | None = None, key: str | None = None) -> None:
    """Serve until stopped; with TLS if there is a certificate."""
    import uvicorn
    from fakesnow.instance import FakeSnow

    snowflake_grants.install(role)
    server = importlib.import_module("fakesnow.server")
    server.shared_fs = FakeSnow(db_path=folder)  # type: ignore[attr-defined, unused-ignore]
    uvicorn.run(server.app, host=address, port=port, ssl_certfile=chain, ssl_keyfile=key, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
