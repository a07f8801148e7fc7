//! The tables, and how an older file becomes a newer one.

use rusqlite::{Connection, TransactionBehavior};

/// One step per version; a step is never changed once released, only followed by another.
pub(super) const STEPS: &[&str] = &[
    "
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        arrived_ms INTEGER NOT NULL,
        key TEXT,
        entrance TEXT NOT NULL,
        asked_model TEXT NOT NULL,
        streamed INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        status INTEGER NOT NULL,
        error_code TEXT,
        route TEXT,
        model TEXT,
        score REAL,
        predicted REAL,
        reason TEXT NOT NULL,
        reasons TEXT NOT NULL,
        verified TEXT NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cost_usd REAL NOT NULL,
        compared_usd REAL NOT NULL,
        parse_us INTEGER NOT NULL,
        plan_us INTEGER NOT NULL,
        verify_us INTEGER NOT NULL,
        first_byte_us INTEGER,
        total_us INTEGER NOT NULL,
        prompt TEXT,
        answer TEXT
    );
    CREATE INDEX requests_by_time ON requests (arrived_ms);
    CREATE INDEX requests_by_request_id ON requests (request_id);
    CREATE TABLE attempts (
        request INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        model TEXT NOT NULL,
        rung INTEGER NOT NULL,
        why TEXT NOT NULL,
        verdict TEXT NOT NULL,
        flaw TEXT,
        repairs TEXT NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cost_usd REAL NOT NULL,
        first_chunk_us INTEGER,
        total_us INTEGER NOT NULL,
        PRIMARY KEY (request, number)
    ) WITHOUT ROWID;
    CREATE TABLE feedback (
        request_id TEXT PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        usable INTEGER NOT NULL,
        reason TEXT
    ) WITHOUT ROWID;
    CREATE TABLE state (
        name TEXT PRIMARY KEY,
        saved_ms INTEGER NOT NULL,
        text TEXT NOT NULL
    ) WITHOUT ROWID;
    ",
    "
    ALTER TABLE requests ADD COLUMN trace TEXT;
    ALTER TABLE attempts ADD COLUMN started_us INTEGER NOT NULL DEFAULT 0;
    ",
    "
    ALTER TABLE requests ADD COLUMN propensity REAL;
    ",
    "
    ALTER TABLE requests ADD COLUMN side TEXT;
    ",
    "
    ALTER TABLE requests ADD COLUMN p_local REAL;
    ALTER TABLE requests ADD COLUMN p_hosted REAL;
    ALTER TABLE requests ADD COLUMN need REAL;
    ",
    // A request's attempts are a text in its row, since a row and a statement for each cost as much as the request's own;
    // the index by time was a third of an insert, and rows stand in the order in which requests ended.
    "
    ALTER TABLE requests ADD COLUMN tried TEXT NOT NULL DEFAULT '[]';
    UPDATE requests SET tried = (
        SELECT json_group_array(json_array(model, rung, why, verdict, flaw, repairs, prompt_tokens, completion_tokens, cost_usd,
            first_chunk_us, total_us, started_us))
        FROM (SELECT * FROM attempts WHERE request = requests.id ORDER BY number));
    DROP TABLE attempts;
    DROP INDEX requests_by_time;
    CREATE VIEW attempts AS SELECT requests.id AS request, one.key AS number,
        one.value ->> 0 AS model, one.value ->> 1 AS rung, one.value ->> 2 AS why, one.value ->> 3 AS verdict,
        one.value ->> 4 AS flaw, one.value ->> 5 AS repairs, one.value ->> 6 AS prompt_tokens,
        one.value ->> 7 AS completion_tokens, one.value ->> 8 AS cost_usd, one.value ->> 9 AS first_chunk_us,
        one.value ->> 10 AS total_us, one.value ->> 11 AS started_us
        FROM requests, json_each(requests.tried) AS one;
    ",
];

/// Marks the file as ours (`PRAGMA application_id`): the letters `spec`.
pub(super) const APPLICATION_ID: i64 = 0x7370_6563;

/// Settings of the writing connection, and the newest schema.
pub(super) fn prepare(connection: &mut Connection) -> anyhow::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let (version, id): (i64, i64) = (
        connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
    );
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    anyhow::ensure!(id == APPLICATION_ID || tables == 0, "it is a database of something else; name another file in accounting.ledger");
    let version = usize::try_from(version)?;
    anyhow::ensure!(version <= STEPS.len(), "it was written by a newer spectra (schema {version}, this one knows {})", STEPS.len());
    // Before the first table: a page is split less often the larger it is, and splitting is a good part of a row's cost.
    connection.pragma_update(None, "page_size", 16384)?;
    // Also before it, so that deleted rows give their room back.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A power cut may take the last transactions; a crash of the process takes none that were committed.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if (1..STEPS.len()).contains(&version) {
        tracing::info!("the ledger is of schema {version} and is brought to {}", STEPS.len());
    }
    for step in STEPS.iter().skip(version) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", i64::try_from(STEPS.len())?)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(transaction.commit()?)
}
