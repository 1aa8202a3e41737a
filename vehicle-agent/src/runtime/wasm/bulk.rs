//! How long a program can run without being asked whether it may go on.
//!
//! Called before a module is compiled. Compiled code looks at the epoch when it enters a function and at the head of every loop. Between
//! two looks it runs straight on, which is short for everything but the instructions that fill or copy as much as the program likes:
//! each may touch the program's whole memory, and none can be interrupted. A function without a loop could line up a million of them,
//! and nothing would freeze it for hours; so a module with many in one function is refused.
//!
//! What remains: one such instruction over a memory of 1 GiB takes a car's computer 0.1 to 0.3 s, which is more than the 100 ms
//! that a freeze may take, and [`MOST`] of them in a row take that many times as long. A module that is built to do so can still hold
//! on for seconds; its memory limit is what bounds each instruction.

use wasmparser::{FunctionBody, Operator, Parser, Payload};

/// So many in one function at most. Compilers make a handful of them, for strings and buffers; those of a known small size, which they
/// make for every structure, do not count.
const MOST: usize = 64;
/// Bytes, or elements, that are moved within microseconds.
const SMALL: u64 = 64 << 10;

/// Says why the module is refused, if it is. One that cannot be read is left to the compiler, which knows what is wrong with it.
pub(super) fn check(module: &[u8]) -> Result<(), String> {
    let bodies = Parser::new(0).parse_all(module).filter_map(|payload| match payload {
        Ok(Payload::CodeSectionEntry(body)) => Some(body),
        _ => None,
    });
    for (index, body) in bodies.enumerate() {
        let count = large(&body).unwrap_or(0);
        if count > MOST {
            return Err(format!(
                "the module could not be frozen in time: its function {index} (imports not counted) has {count} instructions that fill or \
                 copy memory of any size, and vehicles take at most {MOST} in one function; split the function"
            ));
        }
    }
    Ok(())
}

/// How many instructions of the function fill or copy what may be much.
fn large(body: &FunctionBody<'_>) -> wasmparser::Result<usize> {
    let mut count = 0;
    // The size is the last operand, so a constant stands right before the instruction.
    let mut size = None;
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let operator = operators.read()?;
        let moves = matches!(
            operator,
            Operator::MemoryFill { .. }
                | Operator::MemoryCopy { .. }
                | Operator::MemoryInit { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. }
                | Operator::TableGrow { .. }
        );
        if moves && size.is_none_or(|size| size > SMALL) {
            count += 1;
        }
        size = match operator {
            Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
            Operator::I64Const { value } => Some(value.cast_unsigned()),
            _ => None,
        };
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said against a module with so many fills in its second function.
    fn refusal(times: usize, size: &str) -> Option<String> {
        let fills = format!("(memory.fill (i32.const 0) (i32.const 0) ({size}))").repeat(times);
        let text = format!(
            "(module (memory 1) (global $n (mut i32) (i32.const 9)) (func) (func (export \"_start\") {fills}))"
        );
        check(&wat::parse_str(text).unwrap()).err()
    }

    #[rstest::rstest]
    #[case::of_any_size("global.get $n")]
    #[case::of_a_large_size("i32.const 65537")]
    #[case::of_a_size_that_looks_negative("i32.const -1")]
    fn function_that_lines_up_fills_is_refused_by_its_number(#[case] size: &str) {
        assert_eq!(refusal(MOST, size), None);
        let message = refusal(MOST + 1, size).unwrap();
        assert!(
            message.contains("function 1 ") && message.contains("has 65 "),
            "{message}"
        );
    }

    #[test]
    fn fills_of_a_known_small_size_do_not_count() {
        assert_eq!(refusal(1000, "i32.const 65536"), None);
    }

    #[test]
    fn copies_count_as_fills_do() {
        let copies = "(memory.copy (i32.const 0) (i32.const 8) (local.get 0))".repeat(MOST + 1);
        let text = format!("(module (memory 1) (func (param i32) {copies}))");
        assert!(check(&wat::parse_str(text).unwrap()).is_err());
    }

    #[test]
    fn bytes_that_are_no_module_are_left_to_the_compiler() {
        assert_eq!(check(b"\0asm\x01\0\0\0\xff\xff"), Ok(()));
    }
}
