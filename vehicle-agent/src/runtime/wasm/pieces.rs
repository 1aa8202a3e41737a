//! Takes apart what fills or copies much memory at once.
//!
//! Called before a module is compiled. Compiled code looks whether it may go on at each function, loop and bulk instruction, but
//! `memory.fill` and `memory.copy` touch as much as the program likes and cannot be interrupted: over a memory of 1 GiB one of them takes a
//! car's computer 0.1 to 0.3 s, and a freeze may take 100 ms. Each that may be large becomes a call of a function that does the same in
//! pieces, in a loop. What must never happen: a program that computes something else than before, or that does not trap where it would
//! have.
//!
//! A trap comes after some pieces have been written, not before; nobody can see that, for the program ends with it and its memory is its
//! own. Left as they are: memories with 64-bit addresses and second ones, data segments, tables. One instruction on those is bounded by
//! the memory limit.

use wasm_encoder::reencode::{self, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, Function, FunctionSection, Instruction, InstructionSink, TypeSection, ValType,
};
use wasmparser::{Operator, OperatorsReader, Parser, Payload, TypeRef};

/// Bytes that are moved within microseconds.
const SMALL: u64 = 64 << 10;
/// Bytes that are moved in far less than a millisecond.
pub(super) const PIECE: u32 = 1 << 20;

/// The module with its large fills and copies in pieces of so many bytes; `None` if it has none, or cannot be read: then the compiler
/// knows what is wrong with it.
pub(super) fn taken_apart(module: &[u8], piece: u32) -> Option<Vec<u8>> {
    let mut pieces = Pieces::of(module, piece).ok()??;
    let mut apart = wasm_encoder::Module::new();
    pieces.parse_core_module(&mut apart, Parser::new(0), module).ok()?;
    pieces.used.then(|| apart.finish())
}

/// How the module is written again.
struct Pieces {
    piece: u32,
    /// The type of both functions: the last one.
    kind: u32,
    /// The function that fills; the one after it copies.
    fill: u32,
    /// The last instruction, if it was a constant: the size is the last operand.
    size: Option<u64>,
    used: bool,
}

impl Pieces {
    /// What has to be known of the whole module before its first byte is written. `None`: its first memory is none of ours.
    fn of(module: &[u8], piece: u32) -> wasmparser::Result<Option<Self>> {
        let (mut types, mut functions, mut memories) = (0_u32, 0_u32, Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types += u32::try_from(group?.types().len()).unwrap_or(u32::MAX);
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => functions += 1,
                            TypeRef::Memory(memory) => memories.push(memory),
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(section) => functions += section.count(),
                Payload::MemorySection(section) => {
                    for memory in section {
                        memories.push(memory?);
                    }
                }
                _ => {}
            }
        }
        let ours = memories
            .first()
            .is_some_and(|memory| !memory.memory64 && !memory.shared);
        Ok(ours.then_some(Self {
            piece,
            kind: types,
            fill: functions,
            size: None,
            used: false,
        }))
    }
}

impl Reencode for Pieces {
    type Error = std::convert::Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_function_section(self, functions, section)?;
        functions.function(self.kind).function(self.kind);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        utils::parse_code_section(self, code, section)?;
        code.function(&Large::Fill.in_pieces(self.piece));
        code.function(&Large::Copy.in_pieces(self.piece));
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: wasmparser::FunctionBody<'_>,
    ) -> Result<(), reencode::Error> {
        // Most functions have none: their bytes stay what they are.
        if !has_large(&body)? {
            code.raw(body.as_bytes());
            return Ok(());
        }
        self.used = true;
        utils::parse_function_body(self, code, body)
    }

    fn parse_instruction<'a>(&mut self, reader: &mut OperatorsReader<'a>) -> Result<Instruction<'a>, reencode::Error> {
        let operator = reader.read()?;
        let what = large(&operator, self.size);
        self.size = constant(&operator);
        match what {
            Some(Large::Fill) => Ok(Instruction::Call(self.fill)),
            Some(Large::Copy) => Ok(Instruction::Call(self.fill + 1)),
            None => self.instruction(operator),
        }
    }

    fn parse_custom_section(
        &mut self,
        module: &mut wasm_encoder::Module,
        section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        // No index moves, so names stay right; and one that is malformed must not keep the module whole.
        module.section(&utils::custom_section(self, section));
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Large {
    Fill,
    Copy,
}

/// What is to be taken apart; the size is the last operand, so a constant stands right before the instruction.
fn large(operator: &Operator<'_>, size: Option<u64>) -> Option<Large> {
    if size.is_some_and(|size| size <= SMALL) {
        return None;
    }
    match operator {
        Operator::MemoryFill { mem: 0 } => Some(Large::Fill),
        Operator::MemoryCopy { dst_mem: 0, src_mem: 0 } => Some(Large::Copy),
        _ => None,
    }
}

fn has_large(body: &wasmparser::FunctionBody<'_>) -> wasmparser::Result<bool> {
    let mut size = None;
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let operator = operators.read()?;
        if large(&operator, size).is_some() {
            return Ok(true);
        }
        size = constant(&operator);
    }
    Ok(false)
}

/// The value that the instruction puts on the stack, if it is always the same.
fn constant(operator: &Operator<'_>) -> Option<u64> {
    match operator {
        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
        Operator::I64Const { value } => Some(value.cast_unsigned()),
        _ => None,
    }
}

// The operands of both: where to, then with what or from where, then how many bytes.
const TO: u32 = 0;
const FROM: u32 = 1;
const COUNT: u32 = 2;

impl Large {
    /// The instruction itself, on operands that are on the stack.
    fn put(self, f: &mut InstructionSink<'_>) {
        match self {
            Self::Fill => f.memory_fill(0),
            Self::Copy => f.memory_copy(0, 0),
        };
    }

    /// The instruction on all that is left.
    fn put_whole(self, f: &mut InstructionSink<'_>) {
        f.local_get(TO).local_get(FROM).local_get(COUNT);
        self.put(f);
    }

    /// `memory.fill` goes from the front to the end. `memory.copy` goes from the front if it moves down, from the end if it moves up, so
    /// that nothing is overwritten that is still to be read.
    fn in_pieces(self, piece: u32) -> Function {
        let piece = piece.cast_signed();
        let mut function = Function::new([]);
        let f = &mut function.instructions();
        // The usual case: no more than a piece.
        f.local_get(COUNT).i32_const(piece).i32_le_u().if_(BlockType::Empty);
        self.put_whole(f);
        f.return_().end();
        self.trap_beyond_all_memory(f, TO);
        match self {
            Self::Fill => self.put_forward(f, piece, &[TO]),
            Self::Copy => {
                self.trap_beyond_all_memory(f, FROM);
                f.local_get(TO).local_get(FROM).i32_le_u().if_(BlockType::Empty);
                self.put_forward(f, piece, &[TO, FROM]);
                f.else_();
                self.put_backward(f, piece);
                f.end();
            }
        }
        self.put_whole(f);
        f.end();
        function
    }

    /// An address and a count whose sum does not fit in 32 bits are beyond any memory: the instruction itself traps. In pieces the
    /// address would begin again at 0.
    fn trap_beyond_all_memory(self, f: &mut InstructionSink<'_>, address: u32) {
        f.local_get(address).i64_extend_i32_u();
        f.local_get(COUNT).i64_extend_i32_u().i64_add();
        f.i64_const(1 << 32).i64_gt_u().if_(BlockType::Empty);
        self.put_whole(f);
        f.end();
    }

    /// While more than a piece is left: does one at the front, and moves the addresses on.
    fn put_forward(self, f: &mut InstructionSink<'_>, piece: i32, addresses: &[u32]) {
        while_more(f, piece, |f| {
            f.local_get(TO).local_get(FROM).i32_const(piece);
            self.put(f);
            for address in addresses {
                f.local_get(*address).i32_const(piece).i32_add().local_set(*address);
            }
            f.local_get(COUNT).i32_const(piece).i32_sub().local_set(COUNT);
        });
    }

    /// While more than a piece is left: does one at the end.
    fn put_backward(self, f: &mut InstructionSink<'_>, piece: i32) {
        while_more(f, piece, |f| {
            f.local_get(COUNT).i32_const(piece).i32_sub().local_set(COUNT);
            f.local_get(TO).local_get(COUNT).i32_add();
            f.local_get(FROM).local_get(COUNT).i32_add().i32_const(piece);
            self.put(f);
        });
    }
}

fn while_more(f: &mut InstructionSink<'_>, piece: i32, body: impl FnOnce(&mut InstructionSink<'_>)) {
    f.loop_(BlockType::Empty);
    f.local_get(COUNT).i32_const(piece).i32_gt_u().if_(BlockType::Empty);
    body(f);
    f.br(1).end().end();
}

#[cfg(test)]
mod tests;
