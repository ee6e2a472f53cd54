//! The tokens of a template's text.

use core::iter::Peekable;
use core::str::CharIndices;

use super::{MAX_VALUE, Reason};
use crate::MAX_NAME;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word as PostgreSQL reads it: in lower case.
    Word(String),
    /// In double quotes.
    Quoted(String),
    Text(String),
    Number(String),
    /// `,`, `=`, `.`, `;`
    Sign(char),
    Name,
    Lease,
    Expires,
    /// Part of no statement that is allowed.
    Unknown(char),
}

/// The place in bytes, and what is wrong there.
pub(super) type Failed = (usize, Reason);

/// The tokens with their places. What would make a text mean something else than it seems to is refused here.
pub(super) fn lex(text: &str) -> Result<Vec<(usize, Token)>, Failed> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let rest = text.get(at..).unwrap_or_default();
        let token = match c {
            ' ' | '\n' | '\r' | '\t' => continue,
            '-' if rest.starts_with("--") => return Err((at, Reason::Comment)),
            '/' if rest.starts_with("/*") => return Err((at, Reason::Comment)),
            '$' => return Err((at, Reason::DollarQuote)),
            '\\' => return Err((at, Reason::MetaCommand)),
            '{' => {
                let known = [("{{name}}", Token::Name), ("{{lease}}", Token::Lease), ("{{expires}}", Token::Expires)];
                let Some((written, token)) = known.into_iter().find(|(written, _)| rest.starts_with(written)) else {
                    return Err((at, Reason::Placeholder));
                };
                for _ in 1..written.len() {
                    chars.next();
                }
                token
            }
            '\'' => Token::Text(quoted(&mut chars, at, '\'')?),
            '"' => {
                let name = quoted(&mut chars, at, '"')?;
                if !(1..=MAX_NAME).contains(&name.len()) {
                    return Err((at, Reason::Name));
                }
                Token::Quoted(name)
            }
            ',' | '=' | '.' | ';' => Token::Sign(c),
            '0'..='9' | '-' | '+' => {
                let mut number = String::from(c);
                take_while(&mut chars, &mut number, |c| c.is_ascii_digit() || c == '.');
                if !number.ends_with(|c: char| c.is_ascii_digit()) || number.matches('.').count() > 1 {
                    return Err((at, Reason::Expected("a number such as 5 or 0.5")));
                }
                Token::Number(number)
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut word = String::from(c.to_ascii_lowercase());
                take_while(&mut chars, &mut word, |c| c.is_ascii_alphanumeric() || c == '_');
                let follows = chars.peek().map(|(_, c)| *c);
                if matches!(follows, Some('\'' | '&')) {
                    return Err((at, Reason::Prefix));
                }
                if word.len() > MAX_NAME {
                    return Err((at, Reason::Name));
                }
                Token::Word(word.to_ascii_lowercase())
            }
            c if is_invisible(c) => return Err((at, Reason::Invisible(c))),
            c => Token::Unknown(c),
        };
        // A number that runs into a word, or a word into a quote, is read in more than one way.
        if matches!(token, Token::Number(_)) && chars.peek().is_some_and(|(_, c)| c.is_alphanumeric() || *c == '_') {
            return Err((at, Reason::Expected("a space after the number, or quotes around the value")));
        }
        tokens.push((at, token));
    }
    Ok(tokens)
}

fn take_while(chars: &mut Peekable<CharIndices<'_>>, into: &mut String, accept: impl Fn(char) -> bool) {
    while let Some((_, c)) = chars.next_if(|(_, c)| accept(*c)) {
        into.push(c);
    }
}

/// What is between quotes, of which two stand for one.
fn quoted(chars: &mut Peekable<CharIndices<'_>>, opened: usize, quote: char) -> Result<String, Failed> {
    let mut content = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                if chars.next_if(|(_, next)| *next == quote).is_none() {
                    return if content.len() <= MAX_VALUE { Ok(content) } else { Err((opened, Reason::Value)) };
                }
                content.push(quote);
            }
            ';' => return Err((at, Reason::Semicolon)),
            '{' if content.ends_with('{') => return Err((at, Reason::QuotedPlaceholder)),
            '}' if content.ends_with('}') => return Err((at, Reason::QuotedPlaceholder)),
            c if is_invisible(c) => return Err((at, Reason::Invisible(c))),
            c => content.push(c),
        }
    }
    Err((opened, Reason::Unterminated))
}

/// Control characters, and those with which a text shows as something else than it is: of no width, turning the
/// direction, or ending a line.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}'
        )
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}
