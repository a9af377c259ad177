"""The package that this folder belongs to, imported from where it lies and not from where it may be installed."""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1]
NAME = "package_under_test"

if NAME not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert _spec is not None and _spec.loader is not None
    package = importlib.util.module_from_spec(_spec)
    sys.modules[NAME] = package
    _spec.loader.exec_module(package)
else:
    package = sys.modules[NAME]

attention = getattr(package, package.__all__[0])
