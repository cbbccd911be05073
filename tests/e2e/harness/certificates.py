"""Authorities and certificates, and the files that they lie in."""

import datetime
import ipaddress
import itertools
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
YEAR = datetime.timedelta(days=365)
VERSIONS = itertools.count()


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Issued:
    """A certificate and its key, in PEM form."""

    def __init__(self, certificate, key):
        self.serial = certificate.serial_number
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Authority:
    """Who issues certificates."""

    def __init__(self, subject):
        self.name = name(subject)
        self.key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self.name, self.key, NOW - YEAR, NOW + 10 * YEAR)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # Python's own verifier wants an authority to say what its key is for.
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = made.add_extension(usage, critical=True)
        self.pem = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, host="localhost", since=NOW - YEAR, until=NOW + YEAR):
        """A certificate for a name and for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = self._builder(name(host), key, since, until)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return Issued(made.sign(self.key, hashes.SHA256()), key)

    def _builder(self, subject, key, since, until):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def expired(authority):
    return authority.issue(since=NOW - 2 * YEAR, until=NOW - YEAR)


class Mounted:
    """A folder as Kubernetes mounts a secret: links through `..data`, which is swapped."""

    def __init__(self, folder, issued, ca):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.swap(issued, ca)
        for each in ("tls.crt", "tls.key", "ca.crt"):
            (self.folder / each).symlink_to(f"..data/{each}")
        self.certificate, self.key, self.ca = (str(self.folder / each) for each in ("tls.crt", "tls.key", "ca.crt"))

    def swap(self, issued, ca):
        version = self.folder / f"..{next(VERSIONS)}"
        version.mkdir()
        (version / "tls.crt").write_bytes(issued.certificate)
        (version / "tls.key").write_bytes(issued.key)
        (version / "ca.crt").write_bytes(ca)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
