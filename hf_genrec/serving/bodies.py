"""Requests and answers as JSON, for validation and for the documentation of the server."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from hf_genrec.serving.settings import ServerSettings

ItemId = Annotated[StrictStr, Field(max_length=512)]


class RecommendedItem(BaseModel):
    """An item of an answer."""

    item_id: str
    title: str
    score: float


class Recommendations(BaseModel):
    """Best first; a list of lists for `histories`."""

    model: str
    items: list[RecommendedItem] | list[list[RecommendedItem]]
    left_out: list[str] | list[list[str]] = Field(
        description="items of the history, or of each history, that the catalogue does not have"
    )


class CatalogueItem(BaseModel):
    """An item, and its semantic ID if the model writes codes."""

    model: str
    item_id: str
    title: str
    semantic_id: list[int] | None
    popularity: int = Field(description="interactions of the training")


class AddedItems(BaseModel):
    """The items that entered the catalogue."""

    model: str
    items: list[CatalogueItem]
    unused_columns: list[str] = Field(description="columns of the items that the model's text is not made of")


class Models(BaseModel):
    """What is served."""

    models: list[dict[str, str | int]]


class Failure(BaseModel):
    """What is wrong with a request, in one line."""

    detail: str


def recommend_body(limits: ServerSettings, item_ids: list[str]) -> type[BaseModel]:
    """The body of `POST /recommend` within a server's limits, with items of its catalogue as the example."""

    examples: list[Any] = [{"history": item_ids[:3], "k": 5}, {"histories": [item_ids[:2], []], "exclude_seen": True}]

    class RecommendRequest(BaseModel):
        """`history` of one user, or `histories` of several."""

        model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": examples})

        history: Annotated[list[ItemId], Field(max_length=limits.max_history)] | None = Field(
            default=None, description="item ids, oldest first; may be empty"
        )
        histories: (
            Annotated[
                list[Annotated[list[ItemId], Field(max_length=limits.max_history)]],
                Field(min_length=1, max_length=limits.max_histories),
            ]
            | None
        ) = Field(default=None, description="histories of several users, instead of `history`")
        k: Annotated[StrictInt, Field(ge=1, le=limits.max_k)] = Field(default=10, description="items per history")
        exclude_seen: StrictBool | None = Field(
            default=None, description="leave out the items of the history; by default what the training found better"
        )
        candidates: Annotated[list[ItemId], Field(min_length=1, max_length=limits.max_candidates)] | None = Field(
            default=None, description="recommend only these items"
        )
        unknown: Literal["raise", "skip"] = Field(
            default="raise", description="what to do with items of a history that the catalogue does not have"
        )
        user: Annotated[StrictStr, Field(min_length=1, max_length=512)] | None = Field(
            default=None, description="a user who will come back: the encoded history is kept for the next request"
        )
        model: StrictStr | None = Field(default=None, description="which model, by default the first one")

    return RecommendRequest


def items_body(limits: ServerSettings) -> type[BaseModel]:
    """The body of `POST /items` within a server's limits."""

    class NewItem(BaseModel):
        """An item with the text that the model's items have: a title, and further columns of the training."""

        model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"item_id": "f99", "title": "New"}]})
        __pydantic_extra__: dict[str, Annotated[StrictStr, Field(max_length=100_000)]] = Field(init=False)

        item_id: Annotated[StrictStr, Field(min_length=1, max_length=512)]
        title: Annotated[StrictStr, Field(min_length=1, max_length=10_000)]

    class NewItemsRequest(BaseModel):
        """Items that can be recommended from now on, until the server ends."""

        model_config = ConfigDict(
            extra="forbid", json_schema_extra={"examples": [{"items": [{"item_id": "f99", "title": "New"}]}]}
        )

        items: Annotated[list[NewItem], Field(min_length=1, max_length=limits.max_new_items)]
        model: StrictStr | None = Field(default=None, description="which model, by default the first one")

    return NewItemsRequest
