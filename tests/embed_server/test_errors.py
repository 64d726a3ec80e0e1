import pytest

from embed_server.errors import (
    INTERNAL_DETAIL,
    STATUS,
    InvalidRequestError,
    JobNotFoundError,
    TooManyJobsError,
    problem_of,
)
from embeddings.errors import (
    BandError,
    CancelledError,
    OutsideCoverageError,
    PlaceError,
    SpecMismatchError,
    StoreFormatError,
    TerrakinError,
)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PlaceError("why"), 400, "invalid-place"),
        (BandError("why"), 400, "bands-mismatch"),
        (OutsideCoverageError("why"), 404, "outside-coverage"),
        (JobNotFoundError("why"), 404, "job-not-found"),
        (SpecMismatchError("why"), 409, "spec-mismatch"),
        (TooManyJobsError("why"), 429, "too-many-jobs"),
        (StoreFormatError("why"), 500, "store-format"),
    ],
)
def test_an_exception_becomes_its_problem(error: TerrakinError, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code, problem.detail) == (status, code, "why")
    assert problem.type == "about:blank"


def test_an_unlisted_subclass_has_the_status_of_its_ancestor() -> None:
    class OddBandError(BandError):
        code = "odd-band"

    problem = problem_of(OddBandError("why"))
    assert (problem.status, problem.code) == (400, "odd-band")


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), CancelledError("secret")])
def test_what_is_not_in_the_table_is_internal_and_says_nothing(error: Exception) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (500, "internal")
    assert problem.detail == INTERNAL_DETAIL
    assert "secret" not in problem.model_dump_json()


def test_codes_are_unique() -> None:
    codes = [error.code for error in STATUS]
    assert len(codes) == len(set(codes))


def test_many_mistakes_are_summed_up() -> None:
    errors = [
        {"type": "missing", "loc": ("body", name), "msg": "Field required", "input": "x" * 200}
        for name in "abcde"
    ]
    text = str(InvalidRequestError.of(errors))
    assert "a: field required" in text
    assert "and 2 more" in text
    assert "x" * 100 not in text
