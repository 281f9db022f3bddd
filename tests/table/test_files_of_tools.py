"""Fifty files as tools write them: what they hold is read, and what they lack is said."""

from __future__ import annotations

import pytest
from benchmarks.tables.__main__ import wrong
from benchmarks.tables.files import FILES

from flops_fit.errors import TableError
from flops_fit.table import RunTable


@pytest.mark.parametrize("tool", [tool for tool, file in FILES.items() if not file.refused])
def test_a_file_is_read_without_an_option(tool, tmp_path):
    """N, D, C and the loss in parameters, tokens, FLOPs and the unit of its loss."""
    path = tmp_path / FILES[tool].name
    path.write_bytes(FILES[tool].content)
    assert wrong(FILES[tool], RunTable.read(path)) == ""


@pytest.mark.parametrize("tool", [tool for tool, file in FILES.items() if file.refused])
def test_a_file_without_a_column_is_refused_with_the_likeliest_mapping(tool, tmp_path):
    """Where the mapping is complete, it reads the file."""
    file = FILES[tool]
    path = tmp_path / file.name
    path.write_bytes(file.content)
    with pytest.raises(TableError) as info:
        RunTable.read(path)
    assert [word for word in file.refused if word not in str(info.value)] == []
    if file.mapping:
        assert f"columns={file.mapping}" in str(info.value)
        assert wrong(file, RunTable.read(path, file.mapping)) == ""
