"""Problems: what stands for one kind of refusal is one document, whichever exception raises it."""

from pipeline.contracts import problems
from pipeline.contracts.problems import Problem


def test_a_slug_has_one_title_status_and_exit_code() -> None:
    """RFC 9457: the title of a type does not change from one occurrence to another."""
    kinds = [each for each in vars(problems).values() if isinstance(each, type) and issubclass(each, Problem)]
    named = [each for each in kinds if each is not Problem]
    for problem in named:
        same = {(each.title, each.status, each.exit_code) for each in named if each.slug == problem.slug}
        assert len(same) == 1, problem.slug
