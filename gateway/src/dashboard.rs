//! The page at `/dashboard`: files in the binary, no build step, nothing from outside. Its data comes from `feed`.
//!
//! uPlot (MIT, `dashboard/LICENSE-uplot`) draws the charts; the rest is ours.

/// Sent with every file of the page: it may load from here only.
pub const SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Content type and bytes of a file of the page, by path on the admin listener; `None` for any other path.
/// The files hold no data and may be served without the admin token, which the page asks for.
#[must_use]
pub fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    Some(match path {
        "/dashboard" | "/dashboard/" => ("text/html; charset=utf-8", include_bytes!("dashboard/index.html")),
        "/dashboard/app.js" => ("text/javascript; charset=utf-8", include_bytes!("dashboard/app.js")),
        "/dashboard/charts.js" => ("text/javascript; charset=utf-8", include_bytes!("dashboard/charts.js")),
        "/dashboard/numbers.js" => ("text/javascript; charset=utf-8", include_bytes!("dashboard/numbers.js")),
        "/dashboard/style.css" => ("text/css; charset=utf-8", include_bytes!("dashboard/style.css")),
        "/dashboard/uplot.js" => ("text/javascript; charset=utf-8", include_bytes!("dashboard/uplot.js")),
        "/dashboard/uplot.css" => ("text/css; charset=utf-8", include_bytes!("dashboard/uplot.css")),
        "/dashboard/icon.svg" => ("image/svg+xml", include_bytes!("dashboard/icon.svg")),
        _ => return None,
    })
}
