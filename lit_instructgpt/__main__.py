from lit_instructgpt.cli import main

main()
