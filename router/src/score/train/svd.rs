//! Leading singular vectors of a sparse matrix by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).

use super::super::embed::{EMBED, ROWS};
use super::super::metrics::Random;

/// Columns that are iterated: some more than are kept, so that the last kept ones converge too.
const COLUMNS: usize = EMBED + 8;
const ROUNDS: usize = 5;

/// Right singular vectors, row by row, and the spread of the documents along each.
pub(super) struct Vectors {
    pub rows: Vec<f32>,
    pub spread: Vec<f32>,
}

type Row = [f32; COLUMNS];

/// `documents` hold the table rows of their words; an entry's weight is the row's idf, each document scaled to length one.
pub(super) fn leading(documents: &[Vec<u32>], idf: &[u8], seed: u64) -> Vectors {
    let units: Vec<f32> = documents
        .iter()
        .map(|rows| 1.0 / rows.iter().map(|row| f32::from(idf[*row as usize]).powi(2)).sum::<f32>().max(1.0).sqrt())
        .collect();
    let mut random = Random(seed);
    #[expect(clippy::cast_possible_truncation, reason = "random numbers need no more than single precision")]
    let mut basis: Vec<Row> = (0..ROWS).map(|_| std::array::from_fn(|_| random.normal() as f32)).collect();
    for _ in 0..ROUNDS {
        orthonormal(&mut basis);
        let mut next = vec![[0.0; COLUMNS]; ROWS];
        for (rows, unit) in documents.iter().zip(&units) {
            let at = project(rows, idf, *unit, &basis);
            for row in rows {
                let weight = f32::from(idf[*row as usize]) * unit;
                for (slot, value) in next[*row as usize].iter_mut().zip(&at) {
                    *slot += weight * value;
                }
            }
        }
        basis = next;
    }
    orthonormal(&mut basis);
    rotated(documents, idf, &units, &basis)
}

/// A document's place in the basis.
fn project(rows: &[u32], idf: &[u8], unit: f32, basis: &[Row]) -> Row {
    let mut at = [0.0; COLUMNS];
    for row in rows {
        let weight = f32::from(idf[*row as usize]) * unit;
        for (slot, value) in at.iter_mut().zip(&basis[*row as usize]) {
            *slot += weight * value;
        }
    }
    at
}

/// Turns the basis so that its columns are singular vectors, in falling order.
fn rotated(documents: &[Vec<u32>], idf: &[u8], units: &[f32], basis: &[Row]) -> Vectors {
    let mut products = vec![[0.0_f64; COLUMNS]; COLUMNS];
    let mut sums = [0.0_f64; COLUMNS];
    for (rows, unit) in documents.iter().zip(units) {
        let at = project(rows, idf, *unit, basis);
        for (i, a) in at.iter().enumerate() {
            sums[i] += f64::from(*a);
            for (slot, b) in products[i].iter_mut().zip(&at) {
                *slot += f64::from(*a) * f64::from(*b);
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
    let count = documents.len() as f64;
    let uncentred = products.clone();
    let turn = eigenvectors(&mut products);
    let mut order: Vec<usize> = (0..COLUMNS).collect();
    order.sort_by(|a, b| products[*b][*b].total_cmp(&products[*a][*a]));
    order.truncate(EMBED);
    let mut rows = vec![0.0; ROWS * EMBED];
    for (row, from) in basis.iter().enumerate() {
        for (to, column) in order.iter().enumerate() {
            rows[row * EMBED + to] = from.iter().zip(&turn).map(|(value, turn)| value * narrow(turn[*column])).sum();
        }
    }
    let spread = order
        .iter()
        .map(|column| {
            let mean: f64 = (0..COLUMNS).map(|i| sums[i] * turn[i][*column]).sum::<f64>() / count;
            let square: f64 =
                (0..COLUMNS).map(|i| (0..COLUMNS).map(|j| turn[i][*column] * uncentred[i][j] * turn[j][*column]).sum::<f64>()).sum::<f64>()
                    / count;
            narrow((square - mean * mean).max(0.0).sqrt())
        })
        .collect();
    Vectors { rows, spread }
}

/// Gram and Schmidt, twice over each column for its rounding.
fn orthonormal(basis: &mut [Row]) {
    for column in 0..COLUMNS {
        for _ in 0..2 {
            let mut along = [0.0_f64; COLUMNS];
            for row in basis.iter() {
                for (slot, value) in along.iter_mut().zip(row).take(column) {
                    *slot += f64::from(*value) * f64::from(row[column]);
                }
            }
            for row in basis.iter_mut() {
                let off: f64 = row.iter().zip(&along).take(column).map(|(value, along)| f64::from(*value) * along).sum();
                row[column] -= narrow(off);
            }
        }
        let length = basis.iter().map(|row| f64::from(row[column]).powi(2)).sum::<f64>().sqrt().max(1e-30);
        for row in basis.iter_mut() {
            row[column] = narrow(f64::from(row[column]) / length);
        }
    }
}

/// Eigenvectors of a symmetric matrix by Jacobi's rotations; the matrix is left diagonal.
fn eigenvectors(matrix: &mut [[f64; COLUMNS]]) -> Vec<[f64; COLUMNS]> {
    let mut vectors: Vec<[f64; COLUMNS]> =
        (0..COLUMNS).map(|at| std::array::from_fn(|column| if at == column { 1.0 } else { 0.0 })).collect();
    for _ in 0..12 {
        for p in 0..COLUMNS {
            for q in p + 1..COLUMNS {
                if matrix[p][q].abs() < 1e-14 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in matrix.iter_mut().chain(vectors.iter_mut()) {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (upper, lower) = matrix.split_at_mut(q);
                for (a, b) in upper[p].iter_mut().zip(&mut lower[0]) {
                    (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
                }
            }
        }
    }
    vectors
}

#[expect(clippy::cast_possible_truncation, reason = "the table is bytes in the end")]
fn narrow(value: f64) -> f32 {
    value as f32
}
