"""A wheel of DALI's TensorFlow plugin from the libraries that its source archive carries, without a compiler."""

import base64
import hashlib
import platform
import tarfile
import zipfile
from pathlib import Path

_WHEEL = "Wheel-Version: 1.0\nGenerator: captioner\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n"


def prebuilt_wheel(archive: Path, folder: Path, *, tensorflow_version: str) -> Path:
    """Makes the wheel.

    Args:
        archive: path. The plugin's source archive, `name_with_underscores-VERSION.tar.gz`.
        folder: path. Where the wheel is written.
        tensorflow_version: string. The installed one; the library must be for the same minor version.

    Returns:
        Path of the wheel.

    Raises:
        OSError: If the archive has no library for this machine and TensorFlow; names what helps.
    """
    root = archive.name.removesuffix(".tar.gz")
    library = f"libdali_tf_{'_'.join(tensorflow_version.split('.')[:2])}.so"
    with tarfile.open(archive) as source:
        names = [member.name for member in source.getmembers() if member.isfile()]
        if f"{root}/prebuilt/{library}" not in names or platform.machine() != "x86_64":
            raise OSError(
                f"DALI's plugin has no library for TensorFlow {tensorflow_version} on {platform.machine()}; install a "
                "C++ compiler (for example: apt-get install g++) and repeat the command."
            )
        files = {f"nvidia/dali_tf_plugin/{library}": source.extractfile(f"{root}/prebuilt/{library}").read()}
        for name in names:
            if name.startswith(f"{root}/nvidia/"):
                files[name.removeprefix(f"{root}/")] = source.extractfile(name).read()
        about = f"{root}.dist-info"
        files[f"{about}/METADATA"] = source.extractfile(f"{root}/PKG-INFO").read()
    files[f"{about}/WHEEL"] = _WHEEL.encode()
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,"]).encode() + b"\n"
    wheel = folder / f"{root}-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
