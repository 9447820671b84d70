import pickle

import pytest

from pipelines import errors
from pipelines.errors import SatclipError, SceneContentError

ALL = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SatclipError)]


@pytest.mark.parametrize("error", ALL)
def test_an_error_comes_back_from_another_process_as_it_was(error: type[SatclipError]) -> None:
    raised = error("nodata", "half of it is empty") if error is SceneContentError else error("half of it is empty")
    found = pickle.loads(pickle.dumps(raised))
    assert (type(found), str(found), vars(found)) == (error, "half of it is empty", vars(raised))
