"""The tables of the service's database."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("owner", String(100), nullable=False),
    Column("client_key", String(200)),
    Column("spec", JSON, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("slots", Integer, nullable=False),  # trials at a time, at most
    Column("cpus", Float, nullable=False),  # of a trial, all its workers together
    Column("gpus", Float, nullable=False),
    Column("granted", Integer, nullable=False),  # trials at a time in the last launch
    Column("command", JSON, nullable=False),  # arguments of `ssl-sweep` in the next launch
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked", String(10)),  # stop or pause
    Column("attempt", Integer, nullable=False),  # launches so far
    Column("deaths", Integer, nullable=False),  # drivers lost in a row without a trial done
    Column("done_before", Integer, nullable=False),  # trials done when a driver last died
    Column("not_before", Float, nullable=False),
    Column("counts", JSON, nullable=False),  # of trials by state, as last seen in the ledger
    Column("created", Float, nullable=False),
    Column("queued", Float, nullable=False),
    Column("launched", Float),
    Column("ended", Float),
    UniqueConstraint("owner", "client_key"),
    Index("by_state", "state"),
)
events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("submission", ForeignKey("submissions.id"), nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("data", JSON, nullable=False),
    Index("of_submission", "submission", "number"),
    sqlite_autoincrement=True,  # numbers are never reused: clients resume after the last one that they saw
)
webhook_outbox = Table(  # notifications that the webhook has not taken; stored databases have them as `news`
    "news",
    metadata,
    Column("delivery", String(36), primary_key=True),  # the same in every try
    Column("content", JSON, nullable=False),
    Column("time", Float, nullable=False),
)
notes = Table(  # single values: which service works on this database
    "notes",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("value", Text, nullable=False),  # JSON, compared as text
)
tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the token: nobody can sign in with it
    Column("id", String(8), nullable=False, unique=True),
    Column("user", String(100), nullable=False),
    Column("role", String(20), nullable=False),
    Column("created", Float, nullable=False),
)
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("user", String(100), nullable=False),
    Column("address", String(100), nullable=False),
    Column("action", String(200), nullable=False),
    Column("status", Integer, nullable=False),
)
