"""Fetches files: resumed after a break, checked, and either whole or absent under their names."""

from captioner.fetch.file_systems import fetch_through_fsspec, look_up_through_fsspec
from captioner.fetch.http import fetch_file, look_up_file
from captioner.fetch.partial import DownloadError, FetchedFile, RemoteFile, public_address, sha256_of

__all__ = [
    "DownloadError",
    "FetchedFile",
    "RemoteFile",
    "fetch_file",
    "fetch_through_fsspec",
    "look_up_file",
    "look_up_through_fsspec",
    "public_address",
    "sha256_of",
]
