"""The layout that the README promises: imports go one way, and the light parts stay light."""

import ast
import subprocess
import sys

import pytest

LEVELS = {
    "core": 0,
    "explanations": 1,
    "llm": 2,
    "conversation": 2,
    "faces": 2,
    "drawn_faces": 2,
    "data": 3,
    "models": 3,
    "engine": 3,
    "metrics": 3,
    "report": 4,
    "training": 5,
    "app": 6,
    "commands": 7,
    "cli": 8,
}


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("explllm."):
                yield name.split(".")[1]


def import_graph(folder):
    """Map each module to the modules that it imports, inside functions too; imports for type checking don't count."""
    names = {path: ".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for path, name in names.items()}
    graph = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                node.body = []
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {name if name in modules else node.module for name in full.values()}
        graph[module] = (imported & modules.keys()) - {module}
    return graph


def test_no_import_cycles(repository):
    graph = import_graph(repository / "explllm")
    assert sum(map(len, graph.values())) > 200
    # Remove modules that import no remaining module, until only cycles and their importers are left.
    while free := [module for module, imported in graph.items() if not imported & graph.keys()]:
        for module in free:
            del graph[module]
    # Remove modules that no remaining module imports: what is left are the cycles.
    while free := [module for module in graph if not any(module in imported for imported in graph.values())]:
        for module in free:
            del graph[module]
    assert sorted(graph) == []


def test_imports_go_one_way(repository):
    files = sorted((repository / "explllm").rglob("*.py"))
    assert len(files) > 20
    wrong = []
    for path in files:
        own = path.relative_to(repository / "explllm").with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        assert own in LEVELS, f"{path}: a package that DESIGN's layout does not know"
        wrong += [
            f"{path.relative_to(repository)} imports {other}"
            for other in imported_packages(path)
            if other != own and LEVELS[other] >= LEVELS[own]
        ]
    assert wrong == []


def test_models_do_not_import_lightning(repository):
    for path in (repository / "explllm" / "models").rglob("*.py"):
        assert "lightning" not in path.read_text(encoding="utf-8").replace("Lightning is not imported", "")


HEAVY = ("torch", "transformers", "lightning", "openai")
WITHOUT_PANDAS = [
    *(f"explllm.core.{name}" for name in ("errors", "expressions", "action_units", "facs", "files")),
    *(f"explllm.explanations.{name}" for name in ("chain_of_thought", "grounding", "verdict", "rule_writer")),
]

EXPLAIN = ["explllm.models.explllm", *(f"explllm.report.{name}" for name in ("picture", "terminal", "json_lines"))]
"""What `explllm explain` imports: each second here is one more before the first answer."""


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (["explllm.core", *WITHOUT_PANDAS], (*HEAVY, "pandas", "numpy")),
        (["explllm", "explllm.cli"], HEAVY),
        (["explllm.core.manifest", "explllm.explanations.records"], HEAVY),
        (EXPLAIN, ("peft", "pandas", "torchmetrics", "matplotlib", "lightning")),
        (["explllm.commands.lightning_cli"], ("peft", "bitsandbytes", "torch._inductor.compile_fx")),
    ],
    ids=["core", "command line", "tables", "explain", "training"],
)
def test_light_modules_stay_light(modules, absent):
    code = f"import sys, {', '.join(modules)}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_load():
    import explllm

    for name in explllm.__all__:
        assert getattr(explllm, name) is not None
    with pytest.raises(AttributeError, match="No explllm attribute nothing"):
        _ = explllm.nothing
