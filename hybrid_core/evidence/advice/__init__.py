"""Advice on a design. The rules are data (profiles/advice/rules.yaml); each quotes the rows of the
paper that it rests on.

A rule holds when every fact it names has the required value. Facts are the fields of `facts.Facts`,
and nothing in a rule is executed.

A rule is given only where its rows represent the design, its size and its context (`rules.Domain`):
- Design: one of the two rows describes the design (`Rule.subject`). A stack must resemble one such
  row: the same family, a share of attention or intra-hybrid layers within the factor `SHARE_SLACK`,
  and one such layer if the row has one, several if it has several. Rows about a block (Tables 6, 18
  to 20) also fix the block's axes. The mixers must be kinds that the paper trained: grouped-query
  attention, windows, Mamba-2, and the intra-hybrid block of attention and Mamba-2.
- Size: the paper's scale with the nearest parameter count, within a factor of `SAME_SIZE`. Some
  sizes (7B, say) have no rows of the rule's comparison. There a rule applies only if the comparison
  was printed at two scales or more, came out the same at all of them, and no other row contradicts
  it. Its sources then name those scales.
- Context: rows trained at 8K stand for uses up to 16K (short and medium), Table 12's rows at 16K
  for medium, its rows at 32K for long. A speed from Table 13 stands for the scenario that its total
  length falls in. The scenario that a user picks changes the weights, not where a rule applies.
"""
