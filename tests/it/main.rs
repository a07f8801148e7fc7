//! Every story a stranger who speaks HTTP can tell; one file a theme.

mod tidy;
