"""What `make package` builds: only what Lambda needs, with bytecode, the same every time."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.package import build as package
from lambda_migrate.local.package.archive import Archive, find_interpreter, write_zip
from lambda_migrate.local.package.build import ROOT, BuildOptions, build
from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import COUNTERS, Sandbox

from .runtime import ARCHITECTURE, Runtime

EXAMPLE = ROOT / "examples" / "orders"
UNCHECKED_HASH = (1).to_bytes(4, "little")
"""The flags of bytecode that is compared with nothing (PEP 552)."""


def options_for(runtime: Runtime) -> BuildOptions:
    return BuildOptions(EXAMPLE, runtime.version, ARCHITECTURE, find_interpreter(runtime.version))


@pytest.fixture(scope="module")
def archives(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> list[Archive]:
    return build(options_for(runtime), tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def function(archives: list[Archive], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The function's zip, unpacked as by Lambda: with other times than it was built with."""
    folder = tmp_path_factory.mktemp("task")
    zipfile.ZipFile(archives[0].path).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def layer(archives: list[Archive], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opt")
    zipfile.ZipFile(archives[1].path).extractall(folder)
    return folder / "python"


def names(archive: Archive) -> list[str]:
    return zipfile.ZipFile(archive.path).namelist()


def test_two_builds_of_the_same_source_are_identical(
    archives: list[Archive], runtime: Runtime, tmp_path: Path
) -> None:
    again = build(options_for(runtime), tmp_path)
    for first, second in zip(archives, again, strict=True):
        assert names(first) == names(second)
        assert first.path.read_bytes() == second.path.read_bytes(), first.path.name


def test_names_times_and_permissions_in_a_zip_are_fixed(
    archives: list[Archive],
) -> None:
    for archive in archives:
        entries = zipfile.ZipFile(archive.path).infolist()
        assert [each.filename for each in entries] == sorted(each.filename for each in entries)
        assert {each.date_time for each in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {each.external_attr >> 16 for each in entries} <= {0o100644, 0o100755}


def test_a_package_has_only_what_lambda_needs(archives: list[Archive]) -> None:
    function, layer = map(names, archives)
    for name in function + layer:
        top, _, rest = name.removeprefix("python/").partition("/")
        assert top not in {"boto3", "botocore", "s3transfer", "bin", "tests", "typer", "rich"}
        assert not name.endswith((".pyi", ".c", ".md", "py.typed", "requirements.txt"))
        if top == "lambda_migrate":
            assert rest.split("/")[0] not in {"cli", "local", "testing.py", "__main__.py"}
    assert {"app.py", "migrations/0001_customers.sql"} <= set(function)
    assert "roles.sql" not in function, "an administrator's, not the function's"
    assert "python/app.py" not in layer


def test_every_source_file_has_unchecked_bytecode(function: Path, runtime: Runtime) -> None:
    tag = f"cpython-{runtime.version.replace('.', '')}"
    sources = list(function.rglob("*.py"))
    assert len(sources) > 300
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
        assert compiled.read_bytes()[4:8] == UNCHECKED_HASH, source


def test_the_bytecode_is_what_runs(function: Path, runtime: Runtime) -> None:
    """Sources that fail to compile are not even looked at, and nothing is written again."""
    compiled = {path: path.read_bytes() for path in function.rglob("*.pyc")}
    sources = {path: path.read_bytes() for path in function.rglob("*.py")}
    try:
        for source in sources:
            source.write_text("this is no Python\n")
        said = runtime.run("import app; print(app.handler.__name__)", path=function)
    finally:
        for source, content in sources.items():
            source.write_bytes(content)
    assert said.strip() == "handler"
    assert {path: path.read_bytes() for path in function.rglob("*.pyc")} == compiled


@pytest.mark.parametrize("place", ["function", "layer"])
def test_every_packaged_module_of_the_library_can_be_imported(
    place: str, runtime: Runtime, request: pytest.FixtureRequest
) -> None:
    """With boto3 as the runtime has it, and nothing else: no dependency was forgotten.

    Only what runs another tool needs that tool, which a service that uses it packages.
    """
    folder: Path = request.getfixturevalue(place)
    paths = sorted((folder / "lambda_migrate").rglob("*.py"))
    modules = [
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
    ]
    program = (
        "import importlib\n"
        f"for name in {json.dumps(modules)}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error: print(name, error.name)"
    )
    parts = {line.rpartition(".")[0] for line in runtime.run(program, path=folder).splitlines()}
    assert parts == {"lambda_migrate.sources.alembic_child", "lambda_migrate.sources.django_child"}
    assert "lambda_migrate.deploy.codedeploy" in modules


# --- what is refused


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_from_read_only_folders_as_in_an_image_a_function_migrates_and_writes_nothing(
    layer: Path, runtime: Runtime, sandbox: Sandbox
) -> None:
    """The library is in a layer, ``/opt/python``; code and migrations are in ``/var/task``."""
    task = sandbox.code({"0001_counters": COUNTERS})
    before = snapshot(task), snapshot(layer)
    folders = [each for root in (task, layer) for each in (root, *root.rglob("*")) if each.is_dir()]
    for folder in folders:  # root may write nevertheless, so the content is compared as well
        folder.chmod(0o555)
    variables = {
        **sandbox.dynamodb.variables(),
        **sandbox.variables(),
        "PYTHONPATH": f"{task}:{layer}",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    try:
        with LocalFunction(code=task, variables=variables, python=runtime.python) as function:
            result = function.invoke({})
            assert result.status == "ok", function.logs(result.environment_id)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert sandbox.history() == [(1, "applied")]
    compiled = {name for name in snapshot(task) if name.startswith("__pycache__/app.")}
    assert set(snapshot(task)) - compiled == set(before[0])  # the handler has no bytecode here
    assert snapshot(layer) == before[1]


def test_an_unpinned_requirement_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("lambda-migrate\npg8000>=1.31  # any\nsix==1.17.0\n")
    with pytest.raises(ConfigurationError, match=r"requirements.txt: pg8000>=1.31: pin a version"):
        package.build_function(BuildOptions(tmp_path), tmp_path / "out")


def test_an_application_without_requirements_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"requirements\.txt is missing"):
        package.build_function(BuildOptions(tmp_path), tmp_path / "out")


def test_a_missing_interpreter_is_an_error_with_instructions() -> None:
    with pytest.raises(
        ConfigurationError, match=r"CPython 2\.0, .* was not found: .* --no-bytecode"
    ):
        find_interpreter("2.0")


def test_an_interpreter_of_another_version_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"/bin/sh is not CPython 3\.13"):
        find_interpreter("3.13", path="/bin/sh")


def test_a_failed_build_prints_a_message_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        package.main(["--application", str(tmp_path), "--no-bytecode", "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert "requirements.txt is missing" in capsys.readouterr().err


def test_sizes_are_written_between_the_markers_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{package._BEGIN}\nold\n{package._END}\nafter\n")
    package._replace_table_in_page(page, "| new |")
    assert page.read_text() == f"before\n{package._BEGIN}\n| new |\n{package._END}\nafter\n"


def test_a_page_without_markers_is_unchanged(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ConfigurationError, match="lacks the markers"):
        package._replace_table_in_page(page, "| new |")
    assert page.read_text() == "nothing"


def test_a_zip_reports_its_sizes_and_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("12345")
    archive = write_zip(tmp_path / "in", tmp_path / "out.zip", prefix="python/")
    assert (archive.files, archive.unzipped_bytes) == (1, 5)
    assert names(archive) == ["python/a.txt"]
