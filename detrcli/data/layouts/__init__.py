"""The kinds of data folders that people have, a file for each; `find` tells them apart."""
