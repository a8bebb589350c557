//! An upper bound of what evaluating an expression costs, found without evaluating it.
//!
//! The bound follows the interpreter of `cel` 0.15: values are borrowed where they are only looked at,
//! copied into lists, maps and loop variables, and `map` and `filter` append in place. Sizes are
//! [`Shape`]s: for each level of nesting the most that any value there weighs and how many children it
//! has. That is coarse (only a variable's own keys are told apart) and always on the safe side.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};

use super::check::Pattern;

/// How many levels are told apart; the last one stands for all below it too.
const LEVELS: usize = 4;

/// The most that a value can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// At each level, steps to copy a value there with all that it holds.
    weight: [u64; LEVELS],
    /// At each level, how many children a list or map there has.
    len: [u64; LEVELS],
}

impl Shape {
    /// A value of no size: a number, `true`, `null`.
    pub(super) fn scalar() -> Self {
        Shape { weight: [1, 0, 0, 0], len: [0; LEVELS] }
    }

    /// Text or bytes.
    pub(super) fn bytes(len: usize) -> Self {
        Shape::of_weight(1 + (len / 64) as u64)
    }

    fn of_weight(weight: u64) -> Self {
        Shape { weight: [weight, 0, 0, 0], len: [0; LEVELS] }
    }

    /// A list or map without children.
    pub(super) fn container() -> Self {
        Shape::scalar()
    }

    /// One more child. The value under a key of a map is not `counted`: the key was.
    pub(super) fn add_child(&mut self, child: &Shape, counted: bool) {
        self.weight[0] = self.weight[0].saturating_add(child.weight[0]);
        self.len[0] = self.len[0].saturating_add(u64::from(counted));
        for level in 0..LEVELS {
            let below = (level + 1).min(LEVELS - 1);
            self.weight[below] = self.weight[below].max(child.weight[level]);
            self.len[below] = self.len[below].max(child.len[level]);
        }
    }

    /// Any of its children.
    fn child(&self) -> Self {
        let mut child = *self;
        for level in 0..LEVELS {
            let below = (level + 1).min(LEVELS - 1);
            child.weight[level] = self.weight[below];
            child.len[level] = self.len[below];
        }
        child.weight[0] = child.weight[0].max(1);
        child
    }

    /// Either of the two.
    fn or(mut self, other: &Shape) -> Self {
        for level in 0..LEVELS {
            self.weight[level] = self.weight[level].max(other.weight[level]);
            self.len[level] = self.len[level].max(other.len[level]);
        }
        self
    }

    /// The one after the other, as `+` does with texts and lists.
    fn then(self, other: &Shape) -> Self {
        let mut sum = self.or(other);
        sum.weight[0] = self.weight[0].saturating_add(other.weight[0]);
        sum.len[0] = self.len[0].saturating_add(other.len[0]);
        sum
    }

    fn weight(&self) -> u64 {
        self.weight[0]
    }
}

/// A variable, or one key of it, whose shape is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) name: &'a str,
    pub(super) field: Option<&'a str>,
    pub(super) shape: Shape,
}

/// What evaluating `tree` and keeping its result may cost, with variables of these `shapes`.
pub(super) fn bound<'a>(
    tree: &'a IdedExpr,
    shapes: &mut Vec<Known<'a>>,
    patterns: &[Pattern],
) -> u64 {
    let (cost, result) = Bound { shapes, patterns }.of(tree);
    cost.saturating_add(result.weight())
}

struct Bound<'a, 's> {
    /// Variables, those of inner loops last.
    shapes: &'s mut Vec<Known<'a>>,
    patterns: &'s [Pattern],
}

/// What entering a loop or passing through it once costs beyond what stands in it.
const LOOP: u64 = 4;

impl<'a> Bound<'a, '_> {
    fn of(&mut self, node: &'a IdedExpr) -> (u64, Shape) {
        match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => (1, Shape::bytes(text.inner().len())),
            Expr::Literal(LiteralValue::Bytes(bytes)) => (1, Shape::bytes(bytes.inner().len())),
            Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => (1, Shape::scalar()),
            Expr::Ident(name) => {
                let known = self.shapes.iter().rev().find(|known| known.name == name);
                (1, known.map_or(Shape::scalar(), |known| known.shape))
            }
            Expr::Select(select) => {
                let (cost, child) = self.child_of(&select.operand, Some(&select.field));
                (cost.saturating_add(1), if select.test { Shape::scalar() } else { child })
            }
            Expr::List(list) => {
                let mut sum = (1_u64, Shape::container());
                for element in &list.elements {
                    self.child(&mut sum, element, true);
                }
                sum
            }
            Expr::Map(map) => {
                let mut sum = (1_u64, Shape::container());
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.child(&mut sum, &entry.key, true);
                        self.child(&mut sum, &entry.value, false);
                    }
                }
                sum
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(inner) => self.comprehension(inner),
        }
    }

    /// What is under a key of `operand`, and what evaluating the operand costs.
    fn child_of(&mut self, operand: &'a IdedExpr, key: Option<&str>) -> (u64, Shape) {
        if let Expr::Ident(name) = &operand.expr {
            // The innermost of that name: a loop may have bound it anew.
            let innermost = self.shapes.iter().rev().find(|known| known.name == name);
            if innermost.is_some_and(|known| known.field.is_some()) {
                let mut fields = self.shapes.iter().rev().filter(|known| known.name == name);
                let known = fields.find(|known| known.field == key);
                return (1, known.map_or(Shape::scalar(), |known| known.shape));
            }
        }
        let (cost, operand) = self.of(operand);
        (cost, operand.child())
    }

    /// Evaluates a child of a list or map and copies it there.
    fn child(&mut self, sum: &mut (u64, Shape), node: &'a IdedExpr, counted: bool) {
        let (cost, shape) = self.of(node);
        sum.0 = sum.0.saturating_add(cost).saturating_add(shape.weight());
        sum.1.add_child(&shape, counted);
    }

    fn call(&mut self, call: &'a CallExpr) -> (u64, Shape) {
        if let (operators::INDEX, [operand, index]) =
            (call.func_name.as_str(), call.args.as_slice())
        {
            let key = match &index.expr {
                Expr::Literal(LiteralValue::String(key)) => Some(key.inner()),
                _ => None,
            };
            let (cost, child) = self.child_of(operand, key);
            let (index_cost, _) = self.of(index);
            return (cost.saturating_add(index_cost).saturating_add(1), child);
        }
        let mut cost = 1_u64;
        let mut weight = 0_u64;
        let mut shapes = Vec::with_capacity(3);
        for argument in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
            let (inner, shape) = self.of(argument);
            cost = cost.saturating_add(inner);
            weight = weight.saturating_add(shape.weight());
            shapes.push(shape);
        }
        let looking_at_all = cost.saturating_add(weight);
        match (call.func_name.as_str(), shapes.as_slice()) {
            (operators::CONDITIONAL, [_, yes, no]) => (cost, yes.or(no)),
            (operators::ADD, [left, right]) => {
                let onto_result = matches!(&call.args[0].expr, Expr::Ident(name) if name == RESULT);
                let cost =
                    if onto_result { cost.saturating_add(right.weight()) } else { looking_at_all };
                (cost, left.then(right))
            }
            (
                operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::NOT_STRICTLY_FALSE,
                _,
            ) => (cost, Shape::scalar()),
            ("matches", [text, _]) => {
                let pattern = match call.args.last().map(|pattern| &pattern.expr) {
                    Some(Expr::Literal(LiteralValue::String(text))) => text.inner(),
                    _ => "",
                };
                let known = self.patterns.iter().find(|known| known.text == pattern);
                let per_step = known.map_or(u64::MAX, |known| known.cost);
                (cost.saturating_add(text.weight().saturating_mul(per_step)), Shape::scalar())
            }
            ("dyn", [value]) => (looking_at_all, *value),
            // No number is longer than 320 digits as text.
            ("string" | "bytes", [value]) => {
                (looking_at_all, Shape::of_weight(value.weight().saturating_add(6)))
            }
            _ => (looking_at_all, Shape::scalar()),
        }
    }

    /// One of the macros, expanded: the accumulator grows at most by what one step adds to it, once
    /// for each child of the range.
    fn comprehension(&mut self, inner: &'a ComprehensionExpr) -> (u64, Shape) {
        let (range_cost, range) = self.of(&inner.iter_range);
        let (init_cost, init) = self.of(&inner.accu_init);
        let item = range.child();
        let times = range.len[0];
        let outside = self.shapes.len();
        self.shapes.push(Known { name: &inner.iter_var, field: None, shape: item });
        self.shapes.push(Known { name: &inner.accu_var, field: None, shape: init });
        let (condition_cost, _) = self.of(&inner.loop_cond);
        let (step_cost, step) = self.of(&inner.loop_step);
        let mut result = init.or(&step);
        let added = step.weight[0].saturating_sub(init.weight[0]);
        result.weight[0] =
            init.weight[0].max(step.weight[0]).saturating_add(added.saturating_mul(times));
        let added = step.len[0].saturating_sub(init.len[0]);
        result.len[0] = init.len[0].max(step.len[0]).saturating_add(added.saturating_mul(times));
        self.shapes.truncate(outside + 1);
        self.shapes.push(Known { name: &inner.accu_var, field: None, shape: result });
        let (result_cost, value) = self.of(&inner.result);
        self.shapes.truncate(outside);
        let once = LOOP
            .saturating_add(item.weight())
            .saturating_add(condition_cost)
            .saturating_add(step_cost);
        let cost = [LOOP, range_cost, init_cost, times.saturating_mul(once), result_cost]
            .into_iter()
            .fold(0, u64::saturating_add);
        (cost, value)
    }
}

/// The name of the accumulator, which no source can use.
const RESULT: &str = "@result";
