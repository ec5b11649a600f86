"""The program `ballonet`: one module per verb, loaded when the verb is used."""
