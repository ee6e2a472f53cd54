//! What an operator may add to the making of a role's logins: a short text, parsed into statements of a few known shapes.
//!
//! ```text
//! ALTER ROLE {{name}} SET statement_timeout = '30s';
//! ALTER ROLE {{name}} IN DATABASE app SET search_path TO app, public;
//! COMMENT ON ROLE {{name}} IS {{lease}};
//! GRANT auditors TO {{name}};
//! ```
//!
//! `{{name}}` is the login, `{{lease}}` the lease's id as a literal, `{{expires}}` the end after which the target lets the
//! login in no more, as a literal. A setting takes what it takes by hand: the right to set it (`GRANT SET ON PARAMETER`), for
//! one that is an administrator's or that the server does not know. Nothing of the text reaches the target as it is: what was understood is written anew, with
//! every name and every value quoted.
//!
//! # Security
//! All that these statements can do is done to the login that is being made, and ends with it. What would touch another
//! role, an object, a password or an attribute is refused here, where endorsers look before they sign.

mod lex;

use core::fmt::Write as _;

use self::lex::{Failed, Token, lex};
use super::quote::{ident, idents, literal};
use crate::MAX_NAME;
use crate::engine::gives_power;

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 4096;
/// The most statements in a text.
pub const MAX_STATEMENTS: usize = 16;
/// The most values in a list, and the most groups in a `GRANT`.
const MAX_LIST: usize = 16;
/// The longest value, in bytes.
const MAX_VALUE: usize = 1024;

/// A text that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    statements: Vec<Statement>,
}

/// One statement about the login that is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement(Shape);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Set { database: Option<String>, parameter: Vec<String>, values: Vec<Value> },
    Comment(Value),
    Grant(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Lease,
    Expires,
}

/// Where a text is not acceptable, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct TemplateError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong in a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// More than [`MAX_TEXT`].
    #[error("the text is longer than {MAX_TEXT} bytes")]
    TooLong,
    /// More than [`MAX_STATEMENTS`].
    #[error("there are more than {MAX_STATEMENTS} statements")]
    TooMany,
    /// More than a list may hold.
    #[error("there are more than {MAX_LIST} in this list")]
    LongList,
    /// A character with no place in any statement.
    #[error("{0:?} is not allowed here")]
    Character(char),
    /// It does not show, or changes how what is around it shows.
    #[error("the character U+{:04X} does not show", *.0 as u32)]
    Invisible(char),
    /// `--` or `/*`.
    #[error("comments are not allowed")]
    Comment,
    /// `$`.
    #[error("dollar quoting is not allowed; write 'text'")]
    DollarQuote,
    /// `\`.
    #[error("commands of psql are not allowed")]
    MetaCommand,
    /// `E'..'`, `U&'..'` and their like.
    #[error("only plain 'text' is allowed, without a letter before it")]
    Prefix,
    /// A quote without its end.
    #[error("the quote is not closed")]
    Unterminated,
    /// A semicolon in quotes, where no statement ends.
    #[error("a semicolon may only end a statement")]
    Semicolon,
    /// A placeholder in quotes.
    #[error("a placeholder stands for a whole name or value, and not within quotes")]
    QuotedPlaceholder,
    /// A placeholder that there is not.
    #[error("there are only {{{{name}}}}, {{{{lease}}}} and {{{{expires}}}}")]
    Placeholder,
    /// A name that PostgreSQL would cut.
    #[error("a name has 1 to {MAX_NAME} bytes")]
    Name,
    /// A value out of bounds.
    #[error("a value has at most {MAX_VALUE} bytes")]
    Value,
    /// Another role than the one that is being made.
    #[error("only the login that is being made can be changed: write {{{{name}}}}")]
    OtherRole,
    /// Something that is the lease's own.
    #[error("{0} is the lease's own to say")]
    Attribute(String),
    /// A right on an object.
    #[error(
        "rights are given to groups, and groups to logins: an object's list of rights is one row, which overflows at some \
         2,444 logins, and then nobody gets one any more. Write GRANT group TO {{{{name}}}}"
    )]
    ObjectGrant,
    /// A group that gives power over the server, or over the executor.
    #[error("{0} gives power over the server or over what ends logins")]
    Power(String),
    /// A setting that would make the login act as somebody else.
    #[error("{0} can't be set: a login acts as itself")]
    Parameter(String),
    /// A statement of no known shape.
    #[error(
        "only ALTER ROLE {{{{name}}}} [IN DATABASE ..] SET .., COMMENT ON ROLE {{{{name}}}} IS .. and GRANT .. TO {{{{name}}}} \
         are allowed"
    )]
    Statement,
    /// The statement goes on in another way than it may.
    #[error("{0} was expected")]
    Expected(&'static str),
}

/// Parses the text that an operator gives.
///
/// # Errors
/// [`TemplateError`] with the first place that is not acceptable.
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    let at = |offset: usize, reason| {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        TemplateError { line: before.matches('\n').count() + 1, column, reason }
    };
    if text.len() > MAX_TEXT {
        return Err(at(0, Reason::TooLong));
    }
    let tokens = lex(text).map_err(|(offset, reason)| at(offset, reason))?;
    let mut parser = Parser { tokens: &tokens, next: 0, end: text.len() };
    parser.template().map_err(|(offset, reason)| {
        let unknown = tokens.iter().find_map(|(place, token)| match token {
            Token::Unknown(c) if *place == offset => Some(Reason::Character(*c)),
            _ => None,
        });
        at(offset, unknown.unwrap_or(reason))
    })
}

impl Template {
    /// The statements for one lease.
    #[must_use]
    pub fn for_lease(&self, lease: &str) -> Vec<Statement> {
        let fill = |value: &Value| match value {
            Value::Lease => Value::Text(lease.to_owned()),
            other => other.clone(),
        };
        let filled = self.statements.iter().map(|statement| match &statement.0 {
            Shape::Set { database, parameter, values } => Shape::Set {
                database: database.clone(),
                parameter: parameter.clone(),
                values: values.iter().map(fill).collect(),
            },
            Shape::Comment(value) => Shape::Comment(fill(value)),
            Shape::Grant(groups) => Shape::Grant(groups.clone()),
        });
        filled.map(Statement).collect()
    }

    /// The groups of which each login becomes a member by this text: they are to be checked as the role's own are.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        self.statements.iter().flat_map(Statement::groups).cloned().collect()
    }
}

impl Statement {
    /// The groups of which it makes the login a member.
    pub(crate) fn groups(&self) -> &[String] {
        match &self.0 {
            Shape::Grant(groups) => groups,
            Shape::Set { .. } | Shape::Comment(_) => &[],
        }
    }

    /// Whether what was filled in can be sent.
    pub(crate) fn is_valid(&self) -> bool {
        let valid = |value: &Value| match value {
            Value::Text(text) => text.len() <= MAX_VALUE && !text.chars().any(char::is_control),
            Value::Expires => true,
            Value::Lease => false,
        };
        match &self.0 {
            Shape::Set { values, .. } => values.iter().all(valid),
            Shape::Comment(value) => valid(value),
            Shape::Grant(_) => true,
        }
    }

    /// The statement for a login, as a format of the server's `format`, whose first argument is the login's end; and
    /// whether it is about a membership.
    pub(super) fn format(&self, name: &str) -> (String, bool) {
        let text = |text: String| text.replace('%', "%%");
        let value = |value: &Value| match value {
            Value::Text(content) => text(literal(content)),
            Value::Expires => "%1$L".to_owned(),
            // Refused by `is_valid`.
            Value::Lease => "NULL".to_owned(),
        };
        let name = ident(name);
        match &self.0 {
            Shape::Set { database, parameter, values } => {
                let mut sql = format!("ALTER ROLE {name}");
                if let Some(database) = database {
                    let _ = write!(sql, " IN DATABASE {}", text(ident(database)));
                }
                let parameter: Vec<String> = parameter.iter().map(|part| ident(part)).collect();
                let values: Vec<String> = values.iter().map(value).collect();
                let _ = write!(sql, " SET {} TO {}", text(parameter.join(".")), values.join(", "));
                (sql, false)
            }
            Shape::Comment(comment) => (format!("COMMENT ON ROLE {name} IS {}", value(comment)), false),
            Shape::Grant(groups) => {
                (format!("GRANT {} TO {name}", text(idents(groups.iter().map(String::as_str)))), true)
            }
        }
    }
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    next: usize,
    end: usize,
}

impl Parser<'_> {
    fn template(&mut self) -> Result<Template, Failed> {
        let mut statements = Vec::new();
        while self.peek().is_some() {
            let begun = self.place();
            let statement = self.statement()?;
            if statements.len() == MAX_STATEMENTS {
                return Err((begun, Reason::TooMany));
            }
            statements.push(Statement(statement));
            if self.peek().is_some() {
                self.sign(';', "a semicolon or the end")?;
            }
        }
        Ok(Template { statements })
    }

    fn statement(&mut self) -> Result<Shape, Failed> {
        let begun = self.place();
        match self.word() {
            Some("alter") => {
                self.keyword_or("role", begun, Reason::Statement)?;
                self.login()?;
                self.setting()
            }
            Some("comment") => {
                self.keyword_or("on", begun, Reason::Statement)?;
                self.keyword_or("role", begun, Reason::Statement)?;
                self.login()?;
                self.keyword("is", "IS")?;
                Ok(Shape::Comment(self.value()?))
            }
            Some("grant") => self.grant(),
            _ => Err((begun, Reason::Statement)),
        }
    }

    fn setting(&mut self) -> Result<Shape, Failed> {
        let mut database = None;
        let mut place = self.place();
        let mut word = self.word();
        if word == Some("in") {
            self.keyword("database", "DATABASE")?;
            database = Some(self.name("the name of a database")?);
            place = self.place();
            word = self.word();
        }
        match word {
            Some("set") => {}
            Some(
                attribute @ ("login" | "nologin" | "password" | "encrypted" | "valid" | "connection" | "superuser"
                | "nosuperuser" | "createdb" | "nocreatedb" | "createrole" | "nocreaterole" | "inherit"
                | "noinherit" | "replication" | "noreplication" | "bypassrls" | "nobypassrls" | "rename"
                | "with"),
            ) => return Err((place, Reason::Attribute(attribute.to_uppercase()))),
            _ => return Err((place, Reason::Expected("SET or IN DATABASE"))),
        }
        let named = self.place();
        let mut parameter = vec![self.name("the name of a setting")?];
        while self.skip('.') {
            parameter.push(self.name("the rest of the setting's name")?);
        }
        let whole = parameter.join(".");
        if whole.len() > MAX_NAME {
            return Err((named, Reason::Name));
        }
        if let Some(c) = whole.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.')) {
            return Err((named, Reason::Character(c)));
        }
        if matches!(whole.to_ascii_lowercase().as_str(), "role" | "session_authorization") {
            return Err((named, Reason::Parameter(whole)));
        }
        if !self.skip('=') {
            self.keyword("to", "= or TO")?;
        }
        let mut values = vec![self.value_or_word()?];
        while self.skip(',') {
            if values.len() == MAX_LIST {
                return Err((self.place(), Reason::LongList));
            }
            values.push(self.value_or_word()?);
        }
        Ok(Shape::Set { database, parameter, values })
    }

    /// `GRANT` has been read.
    fn grant(&mut self) -> Result<Shape, Failed> {
        let begun = self.place();
        let mut groups = Vec::new();
        loop {
            let place = self.place();
            let group = self.name("the name of a group")?;
            if gives_power(&group) {
                return Err((place, Reason::Power(group)));
            }
            if groups.len() == MAX_LIST {
                return Err((place, Reason::LongList));
            }
            groups.push(group);
            if !self.skip(',') {
                break;
            }
        }
        // `GRANT SELECT ON ..`, `GRANT ALL PRIVILEGES ON ..`: what looked like groups were rights.
        match self.word() {
            Some("to") => {}
            Some("on" | "privileges") => return Err((begun, Reason::ObjectGrant)),
            _ => return Err((self.previous(), Reason::Expected("TO {{name}}"))),
        }
        self.login()?;
        match self.peek() {
            None | Some(Token::Sign(';')) => Ok(Shape::Grant(groups)),
            Some(Token::Sign(',')) => Err((self.place(), Reason::OtherRole)),
            Some(_) => Err((self.place(), Reason::Expected("a semicolon or the end"))),
        }
    }

    fn login(&mut self) -> Result<(), Failed> {
        match self.take() {
            Some(Token::Name) => Ok(()),
            _ => Err((self.previous(), Reason::OtherRole)),
        }
    }

    fn name(&mut self, what: &'static str) -> Result<String, Failed> {
        match self.take() {
            Some(Token::Word(name) | Token::Quoted(name)) => Ok(name.clone()),
            Some(Token::Name) => Err((self.previous(), Reason::OtherRole)),
            _ => Err((self.previous(), Reason::Expected(what))),
        }
    }

    fn value(&mut self) -> Result<Value, Failed> {
        match self.take() {
            Some(Token::Text(text)) => Ok(Value::Text(text.clone())),
            Some(Token::Lease) => Ok(Value::Lease),
            Some(Token::Expires) => Ok(Value::Expires),
            _ => Err((self.previous(), Reason::Expected("'text', {{lease}} or {{expires}}"))),
        }
    }

    fn value_or_word(&mut self) -> Result<Value, Failed> {
        let place = self.place();
        match self.peek() {
            Some(Token::Word(word)) if matches!(word.as_str(), "default" | "from" | "current" | "local") => {
                Err((place, Reason::Expected("a value")))
            }
            Some(Token::Word(text) | Token::Quoted(text) | Token::Number(text)) => {
                let value = Value::Text(text.clone());
                self.next += 1;
                Ok(value)
            }
            _ => self.value(),
        }
    }

    fn keyword(&mut self, keyword: &str, expected: &'static str) -> Result<(), Failed> {
        let place = self.place();
        self.keyword_or(keyword, place, Reason::Expected(expected))
    }

    fn keyword_or(&mut self, keyword: &str, place: usize, reason: Reason) -> Result<(), Failed> {
        if self.word() == Some(keyword) { Ok(()) } else { Err((place, reason)) }
    }

    fn sign(&mut self, sign: char, expected: &'static str) -> Result<(), Failed> {
        let place = self.place();
        if self.skip(sign) { Ok(()) } else { Err((place, Reason::Expected(expected))) }
    }

    fn skip(&mut self, sign: char) -> bool {
        let is = self.peek() == Some(&Token::Sign(sign));
        self.next += usize::from(is);
        is
    }

    fn word(&mut self) -> Option<&str> {
        match self.take() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn take(&mut self) -> Option<&Token> {
        let taken = self.tokens.get(self.next).map(|(_, token)| token);
        self.next += 1;
        taken
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    /// Where the next token is.
    fn place(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    /// Where the last token was.
    fn previous(&self) -> usize {
        self.tokens.get(self.next.saturating_sub(1)).map_or(self.end, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
