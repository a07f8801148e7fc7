//! An entity's name as files, tables and paths spell it.

/// `OrderItem` is `order_item`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_uppercase() && at > 0 && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

pub fn plural(name: &str) -> String {
    match name {
        _ if name.ends_with(['s', 'x']) || name.ends_with("ch") => format!("{name}es"),
        _ if name.ends_with('y') && !["ay", "ey", "oy"].iter().any(|end| name.ends_with(end)) => {
            format!("{}ies", &name[..name.len() - 1])
        }
        _ => format!("{name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        let check = |name: &str, path: &str| assert_eq!(plural(&snake(name)), path);
        check("OrderItem", "order_items");
        check("Category", "categories");
        check("Box", "boxes");
        check("Day", "days");
    }
}
