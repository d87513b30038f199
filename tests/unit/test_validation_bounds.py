import json
import subprocess
import sys

from feature_repo.catalog import FIELDS
from validation.bounds import compile_bounds


def test_bounds_are_plain_values_with_known_examples():
    bounds = json.loads(json.dumps(compile_bounds()))
    assert bounds["user_activity__rate_click_24h"] == {"min": 0.0, "max": 1.0}
    assert bounds["user_activity__num_impressions_1h"] == {"min": 0, "max": None}
    assert bounds["post_profile__integrity_score"] == {"min": 0.0, "max": 1.0}
    assert bounds["user_post_cross__is_followed"] == {"min": 0.0, "max": 1.0}


def test_only_scalar_features_of_the_catalogue_are_bound():
    bounds = compile_bounds()
    assert all(FIELDS[name].dtype in ("float", "int") for name in bounds)


def test_chosen_features_are_bound_and_request_context_is_not():
    chosen = ["post_activity__num_like_7d", "request__hour", "post_profile__language"]
    assert list(compile_bounds(chosen)) == ["post_activity__num_like_7d"]


def test_compiling_bounds_loads_no_great_expectations():
    code = "import sys, validation.bounds as b; b.compile_bounds(); print('great_expectations' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
