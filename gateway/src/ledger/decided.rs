//! Requests whose route a rule chose, as the ledger has them: what was known, what was done, what became of it.

use rusqlite::Connection;
use spectra_router::score::{Route, Score, Taken};

/// One such request.
pub(crate) struct Decided {
    /// What rules look at; no more is kept.
    pub score: Score,
    pub taken: Taken,
}

/// The last ones whose first answer was judged, oldest first.
pub(super) fn decided(connection: &Connection, most: u32) -> rusqlite::Result<Vec<Decided>> {
    let mut query = connection.prepare(
        "SELECT r.score, r.p_local, r.p_hosted, r.need, r.side, r.propensity, r.tried ->> '$[0][3]', r.tried ->> '$[0][4]' IS NOT NULL, \
         CASE WHEN json_array_length(r.tried) = 1 THEN f.usable END \
         FROM requests r LEFT JOIN feedback f ON f.request_id = r.request_id \
         WHERE r.tried <> '[]' AND r.need IS NOT NULL AND r.side IS NOT NULL AND r.outcome <> 'cancelled' ORDER BY r.id DESC LIMIT ?1",
    )?;
    let mut rows = query.query([most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut score = Score::default();
        (score.difficulty, score.p_local, score.p_hosted, score.need) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let route = if row.get_ref(4)?.as_str()? == "local" { Route::Local } else { Route::Strong };
        // What the caller said later counts more than what the verifier saw.
        let said: Option<bool> = row.get(8)?;
        let Some(usable) = said.or(usable(row.get_ref(6)?.as_str()?, row.get(7)?)) else { continue };
        found.push(Decided { score, taken: Taken { route, usable, propensity: row.get::<_, Option<f32>>(5)?.unwrap_or(1.0) } });
    }
    found.reverse();
    Ok(found)
}

/// What an attempt's verdict says of its answer; `None` for an exchange that failed for other reasons.
pub(crate) fn usable(verdict: &str, flawed: bool) -> Option<bool> {
    match verdict {
        "pass" | "mended" => Some(true),
        _ => flawed.then_some(false),
    }
}
