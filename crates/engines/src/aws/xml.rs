//! What the services answer: XML, as a tree of elements with their text.
//!
//! Attributes and namespaces say nothing there, and are not kept. A document type, and with it entities of a server's own making, is refused,
//! as is a tree that is too deep or has too many elements: what a hostile server sends costs little.

use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

/// How deep elements may lie in each other. Answers have six levels.
const MAX_DEPTH: usize = 16;
/// How many elements there may be. A page of a thousand users has some 10,000.
const MAX_NODES: usize = 100_000;

/// An element.
#[derive(Default)]
pub(super) struct Node {
    name: String,
    text: String,
    children: Vec<Node>,
}

/// Its name only: the text may be a secret.
impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Node {
    /// The one element that a document is; `None` for anything else.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_str(core::str::from_utf8(document).ok()?);
        // Those that are open, each in the one before.
        let mut open: Vec<Self> = Vec::new();
        let (mut root, mut count) = (None, 0_usize);
        loop {
            match reader.read_event().ok()? {
                Event::Start(start) => {
                    count += 1;
                    if root.is_some() || count > MAX_NODES || open.len() >= MAX_DEPTH {
                        return None;
                    }
                    open.push(Self::named(start.local_name().as_ref()));
                }
                Event::Empty(start) => {
                    count += 1;
                    if root.is_some() || count > MAX_NODES {
                        return None;
                    }
                    let node = Self::named(start.local_name().as_ref());
                    close(node, &mut open, &mut root);
                }
                Event::End(_) => close(open.pop()?, &mut open, &mut root),
                Event::Text(text) => {
                    let text = text.xml_content(XmlVersion::Implicit1_0);
                    match open.last_mut() {
                        Some(node) => node.text.push_str(&text),
                        None if text.trim().is_empty() => {}
                        None => return None,
                    }
                }
                Event::CData(text) => open.last_mut()?.text.push_str(&text),
                Event::GeneralRef(reference) => {
                    let node = open.last_mut()?;
                    match reference.resolve_char_ref().ok()? {
                        Some(character) => node.text.push(character),
                        None => node.text.push_str(quick_xml::escape::resolve_xml_entity(&reference)?),
                    }
                }
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::DocType(_) => return None,
                Event::Eof => return root.filter(|_| open.is_empty()),
            }
        }
    }

    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The first element on this way down.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.children.iter().find(|child| child.name == *name))
    }

    /// Its text.
    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|node| node.text.as_str())
    }

    /// The text of this one.
    pub(super) fn own(&self) -> &str {
        &self.text
    }

    /// Its text, of which none stays here.
    pub(super) fn take(&mut self, path: &[&str]) -> Option<String> {
        let mut node = self;
        for name in path {
            node = node.children.iter_mut().find(|child| child.name == *name)?;
        }
        Some(core::mem::take(&mut node.text))
    }

    /// The elements of a list.
    pub(super) fn members(&self, path: &[&str]) -> &[Self] {
        self.at(path).map_or(&[], |node| &node.children)
    }

    /// The first element of this name, however deep.
    pub(super) fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

fn close(node: Node, open: &mut [Node], root: &mut Option<Node>) {
    match open.last_mut() {
        Some(outer) => outer.children.push(node),
        None => *root = Some(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = br#"<?xml version="1.0"?>
            <a:R xmlns:a="urn:x"><Users><member><Name>a&amp;b &#x3c;</Name></member><member><Name><![CDATA[<c>]]></Name></member></Users><Empty/></a:R>
        "#;
        let mut root = Node::parse(answer).unwrap();
        let names: Vec<&str> = root.members(&["Users"]).iter().filter_map(|user| user.text(&["Name"])).collect();
        assert_eq!(names, ["a&b <", "<c>"]);
        assert_eq!((root.text(&["Empty"]), root.text(&["None"])), (Some(""), None));
        assert_eq!(root.find("member").and_then(|m| m.text(&["Name"])), Some("a&b <"));
        assert_eq!(root.take(&["Users", "member", "Name"]).as_deref(), Some("a&b <"));
        assert_eq!(root.text(&["Users", "member", "Name"]), Some(""), "it was taken");
        assert!(root.members(&["Nothing"]).is_empty());
    }

    #[test]
    fn nothing_else_is() {
        let deep = format!("{}{}", "<a>".repeat(MAX_DEPTH + 1), "</a>".repeat(MAX_DEPTH + 1));
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES));
        for bad in [
            "",
            "garbage",
            "{\"a\":1}",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>x",
            "<a>&unknown;</a>",
            "<a>\u{0}&#0;</a>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            &deep,
            &many,
        ] {
            assert!(Node::parse(bad.as_bytes()).is_none(), "{}", &bad[..bad.len().min(60)]);
        }
        assert!(Node::parse(b"<a>\xff</a>").is_none());
    }

    #[test]
    fn debug_shows_no_text() {
        assert!(!format!("{:?}", Node::parse(b"<a>canary</a>").unwrap()).contains("canary"));
    }
}
