"""The funnel spec: one typed declaration per surface of every source, stage, weight, rule, deadline and cache.

Every number says its unit and range. Each part has a module of its own, `spec_sources` to `spec_limits`. Reading
files, overlays and error paths live in `spec_file`, what can be tuned and the JSON Schema in `spec_paths`.
"""

import json
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from core.files import content_hash
from serving.funnel.draw import Exploration, page_floor
from serving.spec_limits import CachesSpec, DeadlinesSpec
from serving.spec_model import SpecModel
from serving.spec_operation import ExplanationsSpec, FallbackSpec, OverloadSpec, PagingSpec, PrecomputeSpec
from serving.spec_ranking import EligibilitySpec, FirstStageSpec, SecondStageSpec, ValueModelSpec
from serving.spec_rerank import ExplorationSpec, RerankSpec
from serving.spec_sources import AnySourceSpec, BlendSpec

_PAGE = 20
"""Posts of a page unless a client asks for another number."""


class FunnelSpec(SpecModel):
    """The whole funnel of one surface."""

    surface: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="Where the feed is shown.")
    candidate_kind: Literal["post"] = Field(default="post", description="What is recommended.")
    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], AnySourceSpec] = Field(
        min_length=1, max_length=31, description="Sources by name; the name appears in replies and logs."
    )
    cold_start: tuple[str, ...] = Field(
        default=(), description="Sources used for a user without history; empty means all of them."
    )
    blend: BlendSpec = BlendSpec()
    eligibility: EligibilitySpec = EligibilitySpec()
    first_stage: FirstStageSpec | None = Field(default=None, description="null: candidates stay in blended order.")
    second_stage: SecondStageSpec | None = Field(default=None, description="null: the score is the previous stage's.")
    value_model: ValueModelSpec
    rerank: RerankSpec = RerankSpec()
    exploration: ExplorationSpec = ExplorationSpec()
    paging: PagingSpec = PagingSpec()
    precompute: PrecomputeSpec = PrecomputeSpec()
    overload: OverloadSpec = OverloadSpec()
    explanations: ExplanationsSpec = ExplanationsSpec()
    fallbacks: FallbackSpec = FallbackSpec()
    deadlines: DeadlinesSpec = Field(default=DeadlinesSpec(), validate_default=True)
    caches: CachesSpec = CachesSpec()

    @field_validator("sources")
    @classmethod
    def _in_one_order(cls, sources: dict[str, AnySourceSpec]) -> dict[str, AnySourceSpec]:
        # Equal versions must give equal slates: sums over sources and the numbers of their bits follow this order.
        return dict(sorted(sources.items()))

    @field_validator("cold_start")
    @classmethod
    def _declared_once(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a source is named twice")
        unknown = [name for name in names if name not in info.data.get("sources", names)]
        if unknown:
            raise ValueError(f"names sources that are not declared: {', '.join(unknown)}")
        return names

    @field_validator("deadlines")
    @classmethod
    def _longer_than_each_source(cls, deadlines: DeadlinesSpec, info: ValidationInfo) -> DeadlinesSpec:
        for name, source in info.data.get("sources", {}).items():
            if source.deadline_ms is not None and source.deadline_ms > deadlines.retrieval_ms:
                raise ValueError(
                    f"retrieval_ms is {deadlines.retrieval_ms:g}, sources.{name}.deadline_ms {source.deadline_ms:g}"
                )
        return deadlines

    @model_validator(mode="after")
    def _rules_can_be_kept(self) -> Self:
        unknown = [name for name in self.rerank.source_slots if name not in self.sources]
        if unknown:
            raise ValueError(f"rerank.source_slots names sources that are not declared: {', '.join(unknown)}")
        if self.kept_page_floor < self.exploration.page_floor:
            raise ValueError(
                f"exploration.page_floor is {self.exploration.page_floor:g}, but exploration and rerank rules keep "
                f"only {self.kept_page_floor:.4g}; raise exploration.probability or lower exploration.pool"
            )
        return self

    @property
    def kept_page_floor(self) -> float:
        """Least chance of each of the best `exploration.pool` posts to stand on a first page of 20."""
        explore, rerank = self.exploration, self.rerank
        draw = Exploration(explore.probability, frozenset(explore.slots) or None, explore.pool, explore.temperature)
        fixed = set(rerank.pins)
        for slot in rerank.source_slots.values():
            fixed |= set(range(slot.first, _PAGE, slot.every))
        num_floored = int(rerank.exposure_floor.share * _PAGE) if rerank.exposure_floor else 0
        return page_floor(draw, _PAGE, rerank.creator_window, len(fixed & set(range(_PAGE))) + num_floored)

    @cached_property
    def version(self) -> str:
        """`surface-hash`; equal content gives an equal version whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.surface}-{content_hash([canonical])}"
