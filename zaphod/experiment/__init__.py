"""Champion against challenger on live traffic: who gets which, what came of it, and what follows."""
