//! The public surface of the client: what an application may be compiled against changes only
//! together with `public-api.txt`, where a reviewer sees it. A line that goes away, or changes, is
//! a breaking change.
//!
//! `PIXII_WRITE_GOLDEN=1 cargo test -p pixii-client --test public_api` writes the file.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quote::ToTokens;
use syn::{Fields, ImplItem, Item, Signature, TraitItem, Visibility};

/// Tokens with single spaces, without those around punctuation.
fn text(tokens: impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (wide, narrow) in [
        (" :: ", "::"),
        (" < ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" :", ":"),
        ("& ", "&"),
        (" (", "("),
        (" ;", ";"),
        (" !", "!"),
    ] {
        text = text.replace(wide, narrow);
    }
    text
}

/// The name that a type begins with.
fn name_of(of: &str) -> &str {
    of.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn function(of: &str, signature: &Signature) -> String {
    format!("{of}: {}", text(signature))
}

fn fields(of: &str, fields: &Fields, all: bool, out: &mut BTreeSet<String>) {
    for (at, field) in fields.iter().enumerate().filter(|(_, field)| all || is_public(&field.vis)) {
        let name = field.ident.as_ref().map_or(at.to_string(), ToString::to_string);
        out.insert(format!("{of}: field {name}: {}", text(&field.ty)));
    }
}

/// The public parts of one item; `out` has a line for each.
fn collect(item: &Item, out: &mut BTreeSet<String>) {
    match item {
        Item::Use(item) if is_public(&item.vis) => {
            out.insert(text(item.to_token_stream()));
        }
        Item::Struct(item) if is_public(&item.vis) => {
            let head = format!("struct {}{}", item.ident, text(&item.generics));
            fields(&head, &item.fields, false, out);
            out.insert(head);
        }
        Item::Enum(item) if is_public(&item.vis) => {
            let head = format!("enum {}{}", item.ident, text(&item.generics));
            for variant in &item.variants {
                let head = format!("{head}::{}", variant.ident);
                fields(&head, &variant.fields, true, out);
                out.insert(head);
            }
            out.insert(head);
        }
        Item::Trait(item) if is_public(&item.vis) => {
            let head = format!("trait {}", item.ident);
            let methods = item.items.iter().filter_map(|item| match item {
                TraitItem::Fn(method) => Some(function(&head, &method.sig)),
                _ => None,
            });
            out.extend(methods.collect::<Vec<_>>());
            out.insert(head);
        }
        Item::Const(item) if is_public(&item.vis) => {
            out.insert(format!("const {}: {}", item.ident, text(&item.ty)));
        }
        Item::Fn(item) if is_public(&item.vis) => {
            out.insert(function("fn", &item.sig));
        }
        Item::Impl(item) => {
            let of = text(&item.self_ty);
            if let Some((_, of_trait, _)) = &item.trait_ {
                let head = format!("impl {} for {of}", text(of_trait));
                out.extend((!head.starts_with("impl Drop")).then_some(head));
                return;
            }
            let public = item.items.iter().filter_map(|item| match item {
                ImplItem::Fn(method) if is_public(&method.vis) => Some(function(&of, &method.sig)),
                // The methods that a macro adds.
                ImplItem::Macro(call) => Some(format!("{of}: {}", text(&call.mac))),
                _ => None,
            });
            out.extend(public.collect::<Vec<_>>());
        }
        _ => {}
    }
}

/// The public items of the crate's files. Types of private modules that are not exported are left
/// out by their visibility, `pub(super)`.
fn surface() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lines = BTreeSet::new();
    let mut files: Vec<_> =
        fs::read_dir(root.join("src")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        file.items.iter().for_each(|item| collect(item, &mut lines));
    }
    // What the crate keeps to itself implements traits, too.
    let public: BTreeSet<String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("struct ").or(line.strip_prefix("enum ")))
        .map(|line| name_of(line).to_owned())
        .collect();
    lines.retain(|line| match line.split_once(" for ") {
        Some((head, of)) if head.starts_with("impl ") => {
            head.ends_with("IntoKey") || public.contains(name_of(of))
        }
        _ => true,
    });
    lines.into_iter().map(|line| line + "\n").collect()
}

#[test]
fn the_public_surface_is_the_one_that_was_agreed_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public-api.txt");
    let now = surface();
    if std::env::var_os("PIXII_WRITE_GOLDEN").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let agreed = fs::read_to_string(&path).unwrap();
    let lines = |text: &str| text.lines().map(String::from).collect::<BTreeSet<_>>();
    let gone: Vec<_> = lines(&agreed).difference(&lines(&now)).cloned().collect();
    let new: Vec<_> = lines(&now).difference(&lines(&agreed)).cloned().collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "breaking, if it was released: {gone:#?}\nnew: {new:#?}\n\
         PIXII_WRITE_GOLDEN=1 writes public-api.txt; CHANGELOG says what changed"
    );
}
