import numpy as np
import torch

from models.embeddings import PlainTables
from models.features import Feature, FeatureSpec

SPEC = FeatureSpec((Feature("h", "user", "sequence", table="post", num_rows=50, dim=4, length=6),))


def test_one_row_pools_as_it_does_among_many():
    torch.manual_seed(0)
    tables = PlainTables(SPEC)
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(rng.integers(-1, 50, (20, 6)))
    rows[3] = -1
    together = tables.pool({"h": rows})["h"]
    alone = torch.cat([tables.pool({"h": rows[i : i + 1]})["h"] for i in range(len(rows))])
    torch.testing.assert_close(alone, together)
    assert not alone[3].any()
