"""Whether explanations agree with phonetics and with how language works: the analyses of the paper's §8."""
