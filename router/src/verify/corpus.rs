//! Files of rows to judge offline: what `spectra verify` does with a line.
