use super::*;
use proptest::prelude::*;

/// The statements as they are sent for a login `q_1` of lease `L7`.
fn sent(text: &str) -> Vec<String> {
    let template = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    template.for_lease("L7").iter().map(|statement| statement.format("q_1").0).collect()
}

/// Place and reason.
fn refused(text: &str) -> (usize, usize, Reason) {
    match parse(text) {
        Err(TemplateError { line, column, reason }) => (line, column, reason),
        Ok(template) => panic!("{text:?} was taken for {template:?}"),
    }
}

#[test]
fn what_is_allowed_is_written_anew() {
    let text = "ALTER ROLE {{name}} SET statement_timeout = 30000;\n  alter role {{name}} in database \"My App\"\n set search_path TO \
         app, \"Public\", 'x''y' ;COMMENT ON ROLE {{name}} IS 'it''s 100% \\ {mine}'; comment on role {{name}} is {{lease}};\
         COMMENT ON ROLE {{name}} IS {{expires}}; ALTER ROLE {{name}} SET app.lease TO {{lease}}, -1.5;\
         GRANT Auditors, \"Readers \"\"of\"\" it's 100%\" TO {{name}};";
    assert_eq!(
        sent(text),
        [
            r#"ALTER ROLE "q_1" SET "statement_timeout" TO '30000'"#,
            r#"ALTER ROLE "q_1" IN DATABASE "My App" SET "search_path" TO 'app', 'Public', 'x''y'"#,
            r#"COMMENT ON ROLE "q_1" IS  E'it''s 100%% \\ {mine}'"#,
            r#"COMMENT ON ROLE "q_1" IS 'L7'"#,
            r#"COMMENT ON ROLE "q_1" IS %1$L"#,
            r#"ALTER ROLE "q_1" SET "app"."lease" TO 'L7', '-1.5'"#,
            r#"GRANT "auditors", "Readers ""of"" it's 100%%" TO "q_1""#,
        ]
    );
    assert_eq!(parse(text).unwrap().groups(), ["auditors", "Readers \"of\" it's 100%"]);
    assert_eq!(sent(" \n\t"), Vec::<String>::new());
    assert!(parse(text).unwrap().for_lease("L7").iter().all(Statement::is_valid));
    let unfilled = parse("COMMENT ON ROLE {{name}} IS {{lease}}").unwrap();
    assert!(!unfilled.statements[0].is_valid(), "what is not filled in is not sent");
    assert!(!unfilled.for_lease(&"x".repeat(MAX_VALUE + 1))[0].is_valid());
}

#[test]
fn what_would_reach_further_is_refused_and_it_is_said_why() {
    let statement = |text: &str| assert_eq!(refused(text), (1, 1, Reason::Statement), "{text}");
    for text in [
        "CREATE ROLE evil LOGIN",
        "CREATE USER evil",
        "DROP ROLE postgres",
        "ALTER USER {{name}} SET a = 1",
        "ALTER DATABASE x SET a = 1",
        "ALTER SYSTEM SET a = 1",
        "ALTER TABLE t OWNER TO {{name}}",
        "SET ROLE postgres",
        "RESET ALL",
        "DO 'x'",
        "EXECUTE x",
        "COMMENT ON DATABASE x IS 'y'",
        "REVOKE a FROM {{name}}",
        "COPY t FROM PROGRAM 'id'",
        "\"ALTER\" ROLE {{name}} SET a = 1",
        "{{name}}",
        "'ALTER'",
        "1",
        "; ALTER ROLE {{name}} SET a = 1",
    ] {
        statement(text);
    }
    for (text, column) in [
        ("ALTER ROLE postgres SET a = 1", 12),
        ("ALTER ROLE ALL SET a = 1", 12),
        ("ALTER ROLE CURRENT_USER SET a = 1", 12),
        ("ALTER ROLE {{lease}} SET a = 1", 12),
        ("ALTER ROLE '{name}' SET a = 1", 12),
        ("ALTER ROLE", 11),
        ("COMMENT ON ROLE postgres IS 'x'", 17),
        ("GRANT a TO postgres", 12),
        ("GRANT a TO PUBLIC", 12),
        ("GRANT a TO {{name}}, postgres", 20),
        ("GRANT {{name}} TO a", 7),
        ("GRANT a, {{name}} TO {{name}}", 10),
    ] {
        assert_eq!(refused(text), (1, column, Reason::OtherRole), "{text}");
    }
    for text in [
        "GRANT SELECT ON t TO {{name}}",
        "GRANT SELECT, INSERT ON app.t TO {{name}}",
        "GRANT ALL PRIVILEGES ON DATABASE d TO {{name}}",
        "GRANT EXECUTE ON FUNCTION f(int) TO {{name}}",
    ] {
        assert_eq!(refused(text), (1, 7, Reason::ObjectGrant), "{text}");
    }
    assert!(refused("GRANT SELECT ON t TO {{name}}").2.to_string().contains("2,444"));
    for attribute in ["SUPERUSER", "LOGIN", "NOLOGIN", "PASSWORD", "VALID", "CONNECTION", "WITH", "RENAME", "BYPASSRLS"]
    {
        let text = format!("ALTER ROLE {{{{name}}}} {attribute} 'x'");
        assert_eq!(refused(&text), (1, 21, Reason::Attribute(attribute.into())));
    }
    for (text, column, parameter) in [
        ("ALTER ROLE {{name}} SET role = 'g'", 25, "role"),
        ("ALTER ROLE {{name}} SET \"ROLE\" = 'g'", 25, "ROLE"),
        ("ALTER ROLE {{name}} IN DATABASE d SET Session_Authorization TO g", 39, "session_authorization"),
    ] {
        assert_eq!(refused(text), (1, column, Reason::Parameter(parameter.into())), "{text}");
    }
    for power in ["pg_signal_backend", "PG_Execute_Server_Program", "\"pg_write_server_files\""] {
        let (_, column, reason) = refused(&format!("GRANT a, {power} TO {{{{name}}}}"));
        assert!(column == 10 && matches!(reason, Reason::Power(_)), "{power}: {reason:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_where_it_stands() {
    let table: &[(&str, usize, usize, Reason)] = &[
        ("ALTER ROLE {{name}} SET a = 1 -- x", 1, 31, Reason::Comment),
        ("/* x */ ALTER ROLE {{name}} SET a = 1", 1, 1, Reason::Comment),
        ("ALTER ROLE {{name}}\nSET a = $$x$$", 2, 9, Reason::DollarQuote),
        ("ALTER ROLE {{name}}\r\nSET a$b = 1", 2, 6, Reason::DollarQuote),
        ("\\c other", 1, 1, Reason::MetaCommand),
        ("COMMENT ON ROLE {{name}} IS E'x\\''; DROP ROLE a; --'", 1, 29, Reason::Prefix),
        ("COMMENT ON ROLE {{name}} IS U&'x'", 1, 29, Reason::Prefix),
        ("COMMENT ON ROLE {{name}} IS 'x", 1, 29, Reason::Unterminated),
        ("GRANT \"x TO {{name}}", 1, 14, Reason::QuotedPlaceholder),
        ("GRANT \"x TO {name}", 1, 7, Reason::Unterminated),
        ("COMMENT ON ROLE {{name}} IS 'x;y'", 1, 31, Reason::Semicolon),
        ("GRANT \"a;b\" TO {{name}}", 1, 9, Reason::Semicolon),
        ("COMMENT ON ROLE {{name}} IS 'of {{lease}}'", 1, 34, Reason::QuotedPlaceholder),
        ("COMMENT ON ROLE {{name}} IS 'of }}'", 1, 34, Reason::QuotedPlaceholder),
        ("COMMENT ON ROLE {{name}} IS {{password}}", 1, 29, Reason::Placeholder),
        ("COMMENT ON ROLE {{ name }} IS 'x'", 1, 17, Reason::Placeholder),
        ("COMMENT ON ROLE {{NAME}} IS 'x'", 1, 17, Reason::Placeholder),
        ("COMMENT ON ROLE {{name}}x IS 'x'", 1, 25, Reason::Expected("IS")),
        ("COMMENT ON ROLE {{name}} IS NULL", 1, 29, Reason::Expected("'text', {{lease}} or {{expires}}")),
        ("COMMENT ON ROLE {{name}} IS 'a' 'b'", 1, 33, Reason::Expected("a semicolon or the end")),
        ("COMMENT ON ROLE {{name}} IS {{name}}", 1, 29, Reason::Expected("'text', {{lease}} or {{expires}}")),
        ("GRANT a TO {{name}};;", 1, 21, Reason::Statement),
        ("GRANT a TO {{name}} GRANT b TO {{name}}", 1, 21, Reason::Expected("a semicolon or the end")),
        ("GRANT a TO {{name}} WITH ADMIN OPTION", 1, 21, Reason::Expected("a semicolon or the end")),
        ("GRANT a TO {{name}} GRANTED BY b", 1, 21, Reason::Expected("a semicolon or the end")),
        ("GRANT a(b) TO {{name}}", 1, 8, Reason::Character('(')),
        ("GRANT a TO {{name}}\u{202e}", 1, 20, Reason::Invisible('\u{202e}')),
        ("GRANT \"a\u{200b}\" TO {{name}}", 1, 9, Reason::Invisible('\u{200b}')),
        ("GRANT \"a\0\" TO {{name}}", 1, 9, Reason::Invisible('\0')),
        ("GRANT \"a\nb\" TO {{name}}", 1, 9, Reason::Invisible('\n')),
        ("GRANT\u{a0}a TO {{name}}", 1, 6, Reason::Character('\u{a0}')),
        ("GRANT ä TO {{name}}", 1, 7, Reason::Character('ä')),
        ("GRANT \u{ff41} TO {{name}}", 1, 7, Reason::Character('\u{ff41}')),
        ("GRANT \"\" TO {{name}}", 1, 7, Reason::Name),
        (
            "ALTER ROLE {{name}} SET a = 1x",
            1,
            29,
            Reason::Expected("a space after the number, or quotes around the value"),
        ),
        ("ALTER ROLE {{name}} SET a = 1..2", 1, 29, Reason::Expected("a number such as 5 or 0.5")),
        ("ALTER ROLE {{name}} SET a = -", 1, 29, Reason::Expected("a number such as 5 or 0.5")),
        ("ALTER ROLE {{name}} SET a = DEFAULT", 1, 29, Reason::Expected("a value")),
        ("ALTER ROLE {{name}} SET a FROM CURRENT", 1, 27, Reason::Expected("= or TO")),
        ("ALTER ROLE {{name}} SET SESSION AUTHORIZATION x", 1, 33, Reason::Expected("= or TO")),
        ("ALTER ROLE {{name}} SET a. = 1", 1, 28, Reason::Expected("the rest of the setting's name")),
        ("ALTER ROLE {{name}} SET \"a=b\" = 1", 1, 25, Reason::Character('=')),
        ("ALTER ROLE {{name}} SET a = 1,", 1, 31, Reason::Expected("'text', {{lease}} or {{expires}}")),
        ("ALTER ROLE {{name}} RESET ALL", 1, 21, Reason::Expected("SET or IN DATABASE")),
        ("ALTER ROLE {{name}} IN DATABASE 'x' SET a = 1", 1, 33, Reason::Expected("the name of a database")),
    ];
    for (text, line, column, reason) in table {
        let (got_line, got_column, got) = refused(text);
        assert!(
            (got_line, got_column) == (*line, *column) && got == *reason,
            "{text:?}: {got_line}:{got_column} {got:?}, not {line}:{column} {reason:?}"
        );
    }
}

#[test]
fn bounds() {
    let grant = |name: &str| format!("GRANT \"{name}\" TO {{{{name}}}}");
    assert!(parse(&grant(&"g".repeat(63))).is_ok());
    assert_eq!(refused(&grant(&"g".repeat(64))).2, Reason::Name);
    // 63 bytes, and 64 in 32 characters.
    assert!(parse(&grant(&format!("{}g", "ä".repeat(31)))).is_ok());
    assert_eq!(refused(&grant(&"ä".repeat(32))).2, Reason::Name);
    assert_eq!(refused(&format!("GRANT {} TO {{{{name}}}}", "g".repeat(64))).2, Reason::Name);
    let part = "p".repeat(31);
    assert!(parse(&format!("ALTER ROLE {{{{name}}}} SET {part}.{part} = 1")).is_ok());
    assert_eq!(refused(&format!("ALTER ROLE {{{{name}}}} SET {part}.{part}x = 1")).2, Reason::Name);

    let comment = |n: usize| format!("COMMENT ON ROLE {{{{name}}}} IS '{}'", "c".repeat(n));
    assert!(parse(&comment(MAX_VALUE)).is_ok());
    assert_eq!(refused(&comment(MAX_VALUE + 1)).2, Reason::Value);
    let list = |n: usize| format!("ALTER ROLE {{{{name}}}} SET a = {}", vec!["1"; n].join(", "));
    assert!(parse(&list(MAX_LIST)).is_ok());
    assert_eq!(refused(&list(MAX_LIST + 1)).2, Reason::LongList);
    let groups = |n: usize| format!("GRANT {} TO {{{{name}}}}", vec!["g"; n].join(", "));
    assert!(parse(&groups(MAX_LIST)).is_ok());
    assert_eq!(refused(&groups(MAX_LIST + 1)).2, Reason::LongList);
    let many = |n: usize| vec!["GRANT g TO {{name}}"; n].join(";\n");
    assert_eq!(parse(&many(MAX_STATEMENTS)).unwrap().statements.len(), MAX_STATEMENTS);
    assert_eq!(refused(&many(MAX_STATEMENTS + 1)), (MAX_STATEMENTS + 1, 1, Reason::TooMany));
    assert!(parse(&" ".repeat(MAX_TEXT)).is_ok());
    assert_eq!(refused(&" ".repeat(MAX_TEXT + 1)), (1, 1, Reason::TooLong));
}

/// What is outside of quotes in a statement, as the server reads it: `None` when a quote stays open.
fn bare(sql: &str) -> Option<String> {
    let (mut bare, mut chars) = (String::new(), sql.chars().peekable());
    while let Some(c) = chars.next() {
        if c != '\'' && c != '"' {
            bare.push(c);
            continue;
        }
        let escapes = c == '\'' && bare.ends_with('E');
        loop {
            match chars.next()? {
                '\\' if escapes => drop(chars.next()?),
                next if next == c && chars.next_if(|n| *n == c).is_none() => break,
                _ => {}
            }
        }
        bare.push('_');
    }
    Some(bare)
}

/// Whatever was understood is one statement of a known shape about the login, with nothing of the operator's outside quotes.
fn check(text: &str) -> Result<bool, TestCaseError> {
    let Ok(template) = parse(text) else { return Ok(false) };
    prop_assert!(template.statements.len() <= MAX_STATEMENTS);
    for statement in template.for_lease("L7'; DROP ROLE x; --") {
        prop_assert!(statement.is_valid());
        let (sql, is_membership) = statement.format("q_1");
        let Some(bare) = bare(&sql) else { return Err(TestCaseError::fail(format!("open quote: {sql}"))) };
        let about_it = sql.starts_with("ALTER ROLE \"q_1\" ") || sql.starts_with("COMMENT ON ROLE \"q_1\" IS ");
        prop_assert!(about_it || (is_membership && sql.ends_with(" TO \"q_1\"")), "{sql}");
        prop_assert!(!bare.contains([';', '$', '\\', '\n']) || bare.contains("%1$L"), "{sql}");
        prop_assert!(!bare.contains("--") && !bare.contains("/*") && !bare.contains('\\'), "{sql}");
        for word in bare.replace("%1$L", "_").split([' ', ',', '_', '.']).filter(|word| !word.is_empty()) {
            let known = ["ALTER", "ROLE", "IN", "DATABASE", "SET", "TO", "COMMENT", "ON", "IS", "GRANT", "E"];
            prop_assert!(known.contains(&word), "{word} in {sql}");
        }
        let mut percent = sql.split('%').skip(1);
        while let Some(after) = percent.next() {
            prop_assert!(after.starts_with("1$L") || after.is_empty() && percent.next().is_some(), "{sql}");
        }
    }
    Ok(true)
}

/// Pieces of statements, good and bad.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "ALTER ROLE ",
        "{{name}} ",
        "SET ",
        "a ",
        "search_path",
        " = ",
        " TO ",
        "'x'",
        "'it''s'",
        "\"q\"",
        "\"q\"\"q\"",
        ", ",
        ";",
        "COMMENT ON ROLE {{name}} IS ",
        "{{lease}}",
        "{{expires}}",
        "GRANT ",
        "g",
        "IN DATABASE d ",
        ".",
        "1",
        "-",
        "--",
        "/*",
        "$$",
        "\\",
        "'",
        "\"",
        "E'",
        "%",
        "%1$L",
        "%s",
        "\n",
        "\0",
        "ä",
        "\u{202e}",
        "{",
        "}",
        "(",
        ")",
        "SELECT ",
        "ON ",
        "PASSWORD 'x'",
        "role",
        "100%% \\",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_refused_or_harmless(text in "\\PC{0,80}") {
        check(&text)?;
    }

    #[test]
    fn any_pieces_are_refused_or_harmless(text in pieces()) {
        check(&text)?;
    }

    #[test]
    fn any_name_and_value_is_quoted_or_refused(
        group in "[ -~äΩ\u{202e}]{0,66}",
        value in "[ -~äΩ\n]{0,80}",
        database in "[ -~]{1,20}",
    ) {
        let name = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let text = format!(
            "GRANT {} TO {{{{name}}}}; ALTER ROLE {{{{name}}}} IN DATABASE {} SET a.b = '{}'",
            name(&group), name(&database), value.replace('\'', "''"),
        );
        let hidden = |text: &str| {
            text.contains([';', '\n', '\u{202e}']) || text.contains("{{") || text.contains("}}")
        };
        let acceptable = !hidden(&group) && !hidden(&value) && !hidden(&database) && (1..=63).contains(&group.len());
        prop_assert_eq!(check(&text)?, acceptable, "{}", text);
        if acceptable {
            prop_assert_eq!(parse(&text).unwrap().groups(), [group]);
            let statement = parse(&text).unwrap().statements.remove(1);
            prop_assert_eq!(
                statement.0,
                Shape::Set {
                    database: Some(database),
                    parameter: vec!["a".to_owned(), "b".to_owned()],
                    values: vec![Value::Text(value)],
                }
            );
        }
    }
}
