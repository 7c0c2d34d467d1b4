"""What the code never does: run what a file of somebody else's says, or hand words to a shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlmill.config import BuildConfig
from controlmill.config.base import refuse_credentials
from controlmill.errors import ConfigError

ROOT = Path(__file__).parents[3]
ROOMS = ("controlmill", "flows", "tasks", "training", "storage", "examples", "benchmarks", "docs")
PICKLES = {f"{module}.{name}" for module in ("pickle", "cloudpickle") for name in ("load", "loads")} | {"joblib.load"}
SAFE_LOADERS = {"SafeLoader", "BaseLoader", "CSafeLoader"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What a file does that it must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield from _unsafe_call(ast.unparse(node.func), words)


def _unsafe_call(name: str, words: dict[str | None, str]) -> Iterator[str]:
    last = name.rpartition(".")[2]
    loader = words.get("Loader", "").rpartition(".")[2]
    rules = {
        "a pickle runs code": name in PICKLES or last == "Unpickler",
        "torch.load needs weights_only=True": name == "torch.load" and words.get("weights_only") != "True",
        "reads pickles": words.get("weights_only") == "False" or words.get("allow_pickle") == "True",
        "runs code of a repository": words.get("trust_remote_code") == "True",
        "YAML without a safe loader": name in {"yaml.load", "yaml.load_all"} and loader not in SAFE_LOADERS,
        "runs what it is given": name in {"yaml.unsafe_load", "yaml.full_load", "eval", "exec"},
        "a shell": name in {"os.system", "os.popen"}
        or words.get("shell") == "True"
        or last == "create_subprocess_shell",
        "writes where an archive says": last == "extractall" and "filter" not in words,
    }
    yield from (f"{name}: {what}" for what, broken in rules.items() if broken)


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_of_somebody_elses_is_run(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in paths
        for what in unsafe(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.loads(data)", "pickle.Unpickler(file).load()", "torch.load(path)", "torch.load(p, weights_only=False)",
        "np.load(path, allow_pickle=True)", "yaml.load(text)", "yaml.load(text, Loader=yaml.FullLoader)", "eval(text)",
        "subprocess.run(words, shell=True)", "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "tar.extractall(folder)",
    ],
)  # fmt: skip
def test_the_search_finds_it(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["torch.load(p, weights_only=True)", "yaml.load(t, Loader=yaml.BaseLoader)", "f.eval()"]
)
def test_the_search_leaves_the_rest_alone(line: str) -> None:
    assert not list(unsafe(ast.parse(line)))


@pytest.mark.parametrize("name", ["url_list", "output_folder"])
def test_an_option_with_a_password_is_refused_and_not_shown(name: str) -> None:
    options = {"url_list": "urls.txt", "output_folder": "dataset", name: "https://me:s3cr3t@example.org/x"}
    with pytest.raises(ConfigError, match=rf"^{name}: holds an URI with a user name or password") as caught:
        refuse_credentials(BuildConfig.model_validate(options))
    assert "s3cr3t" not in str(caught.value)
