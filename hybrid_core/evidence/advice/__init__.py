"""Advice on a design: rules that are data (profiles/advice/rules.yaml), each quoting the rows of
the paper that it rests on.

A rule holds when every fact that it names has the value wanted. Facts are the fields of
`facts.Facts`, and nothing in a rule is executed.

A rule speaks only where its rows stand for the design, for its size and for the context in use
(`rules.Domain`):
- Design: one of the two rows is the design's (`Rule.subject`). A stack must be like one such row:
  of its family, with its share of attention or intra-hybrid layers, give or take the factor
  `SHARE_SLACK`, and with a single one or several as it has. Rows of a block (Tables 6, 18 to 20)
  also fix the block's axes. The mixers must be of the paper's kinds: grouped-query attention,
  windows, Mamba-2, and the intra-hybrid block of attention and Mamba-2.
- Size: the paper's scale whose parameters are nearest, within a factor of `SAME_SIZE`. A design may
  have a size without rows of the rule's comparison (7B, say). There a rule speaks only if the
  comparison was printed at two scales or more, came out the same at all of them, and no other row
  speaks against it. Its sources then name those scales.
- Context: rows trained at 8K stand for uses up to 16K (short and medium), Table 12's rows at 16K
  for medium, its rows at 32K for long. A speed of Table 13 stands for the scenario of its total
  length.
The scenario that a user picks changes weights, not where a rule speaks.
"""
