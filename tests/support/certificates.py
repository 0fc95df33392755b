"""A test's own certificate authority, and certificates that it signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A self-signed `ca.pem` in a folder. Skips the test if openssl is not installed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificates")
        self.folder = folder
        self.file = folder / "ca.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test-authority -keyout ca.key -out ca.pem"
        self._openssl(words)

    def sign(self, place: str) -> dict[str, str]:
        """The options of a Redis server with a certificate for `place` (`IP:127.0.0.1`, `DNS:example.com`)."""
        (self.folder / "names.cnf").write_text(f"subjectAltName={place}\n")
        self._openssl("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout server.key -out server.csr")
        self._openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names.cnf -out server.pem"
        )
        return {"tls-cert-file": str(self.folder / "server.pem"), "tls-key-file": str(self.folder / "server.key")}

    def _openssl(self, words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=self.folder, check=True, capture_output=True)
