"""Members of a tar: what memory a hostile header may take. The kinds of damage are in test_bad_shards."""

import io

from bad_shards import all_kinds, good_sample

from trainers.shards.tar_members import MAX_HEADER_BYTES, read_members


class Recording(io.BytesIO):
    """A file that remembers the most that was asked of it at once."""

    most = 0

    def read(self, size=-1):
        self.most = max(self.most, size if size >= 0 else 2**63)
        return super().read(size)


def test_no_header_is_read_that_is_longer_than_headers_are():
    (kind,) = (kind for kind in all_kinds() if kind.name == "extended header of 8 GB")
    data = kind.build(good_sample("a"), good_sample("b"))
    file = Recording(data)
    members, _ = read_members(file, len(data))
    assert {member.key for member in members} == {"a", "odd", "b"}
    assert file.most <= MAX_HEADER_BYTES
